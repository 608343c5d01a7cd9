// A few hundred inputs for each decoder of bytes from outside; `scripts/fuzz` runs as many as there is time for.
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { DECODERS } from './decoders.ts'
import { fuzz } from './fuzzing.ts'

const RUNS = 400
/** Another one for each run of the tests: what it finds is printed with it. */
const seed = Number(process.env['SHOAL_FUZZ_SEED'] ?? Date.now() % 0x7fff_ffff)

suite('fuzzed decoders', () => {
  for (const decoder of DECODERS) {
    test(decoder.name, () => assert.equal(fuzz(decoder, seed, RUNS).violation, undefined))
  }

  test('a good input is taken by every decoder that tells good from bad', () => {
    for (const { name, seeds, decode } of DECODERS) {
      for (const input of seeds) assert.doesNotThrow(() => decode(Buffer.from(input)), name)
    }
  })

  test('a decoder that throws what it may not is found out', () => {
    const decode = (input: Buffer): void => {
      if (input.includes(0x7f)) throw new TypeError('no answer')
    }
    const broken = { name: 'broken', seeds: [Buffer.alloc(4)], words: [Buffer.of(1)], errors: [RangeError], decode }
    assert.match(
      fuzz(broken, 1, 2000).violation ?? '',
      /^broken, seed 1: \d+ bytes, [0-9a-f]*7f[0-9a-f]*\nTypeError: no answer/,
    )
  })
})
