// How @chainsafe/libp2p-noise 17 finds out that a read is used up: it reads the next length from nothing, and a RangeError
// with its stack is thrown after every read. That was 3 % of an agent's main thread in a busy rollout.
import type { MessageStream } from '@libp2p/interface'

/** Bytes of the length before each Noise message (Noise specification, section 13). */
const LENGTH_BYTES = 2
/** Longer than what is there, so that the decoder waits for more. */
const UNKNOWN_LENGTH = 0xffff

/** What is looked at of noise's stream. Private there, so nothing is done where it looks different. */
interface NoiseStream {
  decoder: {
    lengthDecoder: (bytes: { byteLength: number; get: (index: number) => number }) => number
    buffer: { get: (index: number) => number }
  }
}

/** Lets an encrypted connection look whether a length is there before it reads it. */
export function checkLengthsFirst(stream: MessageStream): void {
  const { decoder } = stream as unknown as Partial<NoiseStream>
  if (typeof decoder?.lengthDecoder !== 'function' || typeof decoder.buffer?.get !== 'function') return
  decoder.lengthDecoder = (bytes) => {
    if (bytes.byteLength < LENGTH_BYTES) return UNKNOWN_LENGTH
    return (bytes.get(0) << 8) | bytes.get(1)
  }
}
