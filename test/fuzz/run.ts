// Fuzzes all decoders in turn until the time is over; ends with 1 when one of them did what it may not do.
import { parseArgs } from 'node:util'
import { DECODERS } from './decoders.ts'
import { fuzz } from './fuzzing.ts'

const HELP = `scripts/fuzz [--seconds N] [--seed S] [--decoder NAME]

Feeds every decoder of bytes from outside with broken inputs. The same seed gives the same inputs.
  --seconds N     how long, in all (default 60)
  --seed S        a whole number (default: another one each time; it is printed)
  --decoder NAME  only decoders whose name holds NAME`

const RUNS_PER_TURN = 500

function main(): number {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string', default: String(Date.now() % 0x7fff_ffff) },
      decoder: { type: 'string', default: '' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(`${HELP}\n`)
    return 0
  }
  const [seconds, seed] = [Number(values.seconds), Number(values.seed)]
  const decoders = DECODERS.filter(({ name }) => name.includes(values.decoder))
  if (!(seconds > 0) || !Number.isSafeInteger(seed) || decoders.length === 0) {
    process.stderr.write(`${HELP}\n`)
    return 2
  }
  process.stdout.write(`seed ${seed}, ${decoders.length} decoders, ${seconds} s\n`)
  const runs = new Map<string, number>()
  const violations = new Map<string, string>()
  const endMs = performance.now() + seconds * 1000
  // Every decoder has its turn at least once, however little time there is.
  for (let turn = 0; turn === 0 || performance.now() < endMs; turn++) {
    for (const decoder of decoders) {
      if (violations.has(decoder.name) || (turn > 0 && performance.now() >= endMs)) continue
      const result = fuzz(decoder, (seed + turn) | 0, RUNS_PER_TURN)
      runs.set(decoder.name, (runs.get(decoder.name) ?? 0) + result.runs)
      if (result.violation !== undefined) violations.set(decoder.name, result.violation)
    }
  }
  for (const [name, count] of runs) process.stdout.write(`${count.toString().padStart(9)}  ${name}\n`)
  for (const violation of violations.values()) process.stdout.write(`\nVIOLATION: ${violation}\n`)
  const inputs = [...runs.values()].reduce((sum, count) => sum + count, 0)
  process.stdout.write(`${inputs} inputs, ${violations.size} violations\n`)
  return violations.size > 0 ? 1 : 0
}

process.exitCode = main()
