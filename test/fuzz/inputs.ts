// Inputs for decoders: bytes of no meaning, and good inputs that something has happened to.
import fc from 'fast-check'

/** Longest input that is made, in bytes: enough for every length and depth that decoders look at. */
const MAX_BYTES = 64 * 1024

type Change = (bytes: Buffer) => Buffer

const place = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
const at = (share: number, bytes: Buffer): number => Math.floor(share * (bytes.byteLength + 1))
const splice = (bytes: Buffer, from: number, to: number, middle: Uint8Array): Buffer =>
  Buffer.concat([bytes.subarray(0, from), middle, bytes.subarray(Math.max(from, to))])

/** What can happen to an input. `words` are pieces that mean something to the decoder. */
function change(words: readonly Uint8Array[]): fc.Arbitrary<Change> {
  const word = words.length === 0 ? fc.uint8Array({ maxLength: 8 }) : fc.constantFrom(...words)
  const edge = fc.constantFrom(0x00, 0x01, 0x7f, 0x80, 0xff)
  return fc.oneof(
    fc.tuple(place, fc.nat(7)).map(([where, bit]): Change => {
      return (bytes) => {
        const copy = Buffer.from(bytes)
        if (copy.byteLength > 0) copy[Math.min(at(where, copy), copy.byteLength - 1)]! ^= 1 << bit
        return copy
      }
    }),
    fc.tuple(place, edge).map(([where, value]): Change => {
      return (bytes) => splice(bytes, at(where, bytes), at(where, bytes) + 1, Uint8Array.of(value))
    }),
    fc.tuple(place, word).map(([where, piece]): Change => {
      return (bytes) => splice(bytes, at(where, bytes), at(where, bytes), piece)
    }),
    // Cut off, cut out, said twice.
    place.map(
      (where): Change =>
        (bytes) =>
          bytes.subarray(0, at(where, bytes)),
    ),
    fc.tuple(place, place).map(([from, to]): Change => {
      return (bytes) => splice(bytes, at(from, bytes), at(to, bytes), new Uint8Array())
    }),
    fc.tuple(place, place).map(([from, to]): Change => {
      return (bytes) => splice(bytes, at(to, bytes), at(to, bytes), bytes.subarray(at(from, bytes), at(to, bytes)))
    }),
    // Deep nesting and long runs come from one piece many times.
    fc.tuple(place, word, fc.integer({ min: 2, max: 5000 })).map(([where, piece, times]): Change => {
      return (bytes) => {
        const run = Buffer.concat(Array.from({ length: times }, () => piece)).subarray(0, MAX_BYTES)
        return splice(bytes, at(where, bytes), at(where, bytes), run)
      }
    }),
  )
}

/** Inputs for one decoder, from good ones (`seeds`) and pieces of good ones (`words`). */
export function inputs(seeds: readonly Uint8Array[], words: readonly Uint8Array[]): fc.Arbitrary<Buffer> {
  const changed = fc
    .tuple(fc.constantFrom(...seeds), fc.array(change(words), { maxLength: 6 }))
    .map(([seed, changes]) =>
      changes.reduce<Buffer>((bytes, each) => each(bytes), Buffer.from(seed)).subarray(0, MAX_BYTES),
    )
  const random = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes))
  const pieces = fc.array(fc.constantFrom(...words, ...seeds), { maxLength: 12 }).map((each) => Buffer.concat(each))
  return fc.oneof({ arbitrary: changed, weight: 6 }, { arbitrary: pieces, weight: 2 }, { arbitrary: random, weight: 1 })
}
