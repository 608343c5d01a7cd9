// Chance that can be repeated: the same seed gives the same run, on every machine.
import type { Random } from '@shoal/swarm/policy'

/** A source of numbers in [0, 1) with 128 bits of state (sfc32, from PractRand by Chris Doty-Humphrey). */
export function seededRandom(seed: number): Random {
  let a = 0x9e3779b9
  let b = 0x243f6a88
  let c = seed | 0
  let counter = 1
  const next = () => {
    const sum = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (c << 21) | (c >>> 11)
    c = (c + sum) | 0
    return (sum >>> 0) / 4_294_967_296
  }
  for (let round = 0; round < 16; round++) next()
  return next
}
