// Feeds a decoder with inputs and says what went wrong, with the smallest input that shows it.
import fc from 'fast-check'
import type { Decoder } from './decoders.ts'
import { inputs } from './inputs.ts'

/** No input of 64 KiB needs seconds; one that does is a way to stop a node. Far above what a busy machine adds. */
const SLOW_MS = 5000

export interface FuzzResult {
  runs: number
  /** What a decoder did that it may not do. */
  violation: string | undefined
}

/** Runs `runs` inputs that follow from `seed`. */
export function fuzz(decoder: Decoder, seed: number, runs: number): FuzzResult {
  const property = fc.property(inputs(decoder.seeds, decoder.words), (input) => check(decoder, input))
  const details = fc.check(property, { seed, numRuns: runs, endOnFailure: false })
  if (!details.failed) return { runs: details.numRuns, violation: undefined }
  const [input] = details.counterexample ?? [Buffer.alloc(0)]
  const why =
    details.errorInstance instanceof Error ? (details.errorInstance.stack ?? details.errorInstance.message) : ''
  const hex = input.subarray(0, 512).toString('hex')
  const violation = `${decoder.name}, seed ${seed}: ${input.byteLength} bytes, ${hex}\n${why}`
  return { runs: details.numRuns, violation }
}

function check({ decode, errors }: Decoder, input: Buffer): void {
  const started = performance.now()
  try {
    decode(input)
  } catch (error) {
    if (!errors.some((expected) => error instanceof expected)) throw error
  }
  const tookMs = performance.now() - started
  if (tookMs > SLOW_MS) throw new Error(`the input took ${Math.round(tookMs)} ms`)
}
