// Frames of the transfer plane: four bytes of length (of what follows), one of kind, four with the number of the request,
// then the payload. Numbers are big-endian. docs/protocol.md has the table.
import type { Digest } from '@shoal/oci'
import { digestToMultihash, multihashToDigest } from './codec-parts.ts'
import { TransferError } from './errors.ts'
import { PROOF_BYTES } from './swarm-key.ts'

export const TRANSFER_VERSION = 1

export const FRAME = {
  /** Both ways, first: who is there, with proofs. */
  hello: 1,
  /** To the server: a chunk, please. */
  request: 2,
  /** To the server: the answer to this request is not wanted any more. */
  cancel: 3,
  /** To the client: the chunk follows, in as many `data` frames as the server likes. */
  ok: 4,
  data: 5,
  /** To the client: all upload slots are taken; come back in so many milliseconds. */
  busy: 6,
  /** To the client: not here. */
  missing: 7,
  /** To the client: the chunk could not be read; nothing more comes of it. */
  failed: 8,
  /** To the client: nothing more comes of a request that was cancelled. */
  cancelled: 9,
} as const

/** Length, kind and request number. */
export const HEADER_BYTES = 9
/** What the length counts besides the payload. */
export const LENGTH_OFFSET = 5
/** Largest payload of a `data` frame that is accepted. */
export const MAX_DATA_BYTES = 4 * 1024 * 1024
/** Largest payload of any other frame. */
export const MAX_SMALL_BYTES = 512
const MAX_REQUEST_ID_LENGTH = 64
const SIGNATURE_BYTES = 64

export function protocolError(what: string): TransferError {
  return new TransferError('PROTOCOL', `The peer broke the transfer protocol: ${what}`)
}

/** Writes a header into the first bytes of `into`. */
export function writeHeader(into: Buffer, kind: number, request: number, payloadBytes: number): void {
  into.writeUInt32BE(LENGTH_OFFSET + payloadBytes, 0)
  into[4] = kind
  into.writeUInt32BE(request, 5)
}

export function frame(kind: number, request: number, payload: Uint8Array = new Uint8Array()): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.byteLength)
  writeHeader(bytes, kind, request, payload.byteLength)
  bytes.set(payload, HEADER_BYTES)
  return bytes
}

export function numberFrame(kind: number, request: number, value: number): Buffer {
  const payload = Buffer.allocUnsafe(4)
  payload.writeUInt32BE(Math.max(0, Math.min(0xffff_ffff, Math.round(value))))
  return frame(kind, request, payload)
}

export function readNumber(payload: Buffer): number {
  if (payload.byteLength !== 4) throw protocolError('an answer with a wrong length')
  return payload.readUInt32BE(0)
}

// ---- hello ----------------------------------------------------------------------------------------------------

export interface TransferHello {
  version: number
  peerId: string
  /** Of membership. */
  proof: Uint8Array
  /** By the identity `peerId`. */
  signature: Uint8Array
}

export function encodeHello({ version, peerId, proof, signature }: TransferHello): Buffer {
  return frame(FRAME.hello, 0, Buffer.concat([Buffer.from([version]), proof, signature, Buffer.from(peerId)]))
}

export function decodeHello(payload: Buffer): TransferHello {
  const fixed = 1 + PROOF_BYTES + SIGNATURE_BYTES
  if (payload.byteLength <= fixed) throw protocolError('a hello that is too short')
  return {
    version: payload[0] as number,
    proof: payload.subarray(1, 1 + PROOF_BYTES),
    signature: payload.subarray(1 + PROOF_BYTES, fixed),
    peerId: payload.toString('latin1', fixed),
  }
}

// ---- request --------------------------------------------------------------------------------------------------

export interface RequestFrame {
  digest: Digest
  index: number
  requestId: string
}

export function encodeRequest(request: number, { digest, index, requestId }: RequestFrame): Buffer {
  const multihash = digestToMultihash(digest)
  const id = Buffer.from(printable(requestId), 'latin1')
  const head = Buffer.allocUnsafe(4)
  head.writeUInt32BE(index)
  return frame(FRAME.request, request, Buffer.concat([head, multihash, id]))
}

export function decodeRequest(payload: Buffer): RequestFrame {
  // index, then a multihash that says how long it is
  const end = payload.byteLength < 6 ? Infinity : 6 + (payload[5] as number)
  if (payload.byteLength < end) throw protocolError('a request that is too short')
  let digest: Digest
  try {
    digest = multihashToDigest(payload.subarray(4, end))
  } catch (error) {
    throw new TransferError('PROTOCOL', 'The peer broke the transfer protocol: no digest in a request', {
      cause: error,
    })
  }
  return { digest, index: payload.readUInt32BE(0), requestId: printable(payload.toString('latin1', end)) }
}

/** Request ids end up in logs: nothing but visible ASCII, and not too long. */
function printable(text: string): string {
  return text.slice(0, MAX_REQUEST_ID_LENGTH).replace(/[^\x21-\x7e]/g, '_')
}

/** Takes the frames that go to a server, and the first one that goes to a client, out of a stream of bytes. */
export class SmallFrameReader {
  #pending: Buffer = Buffer.alloc(0);

  /** @throws TransferError for a frame that is longer than any that may come */
  *read(bytes: Buffer): Generator<{ kind: number; request: number; payload: Buffer }> {
    let rest = this.#pending.byteLength === 0 ? bytes : Buffer.concat([this.#pending, bytes])
    this.#pending = Buffer.alloc(0)
    while (rest.byteLength >= 4) {
      const length = rest.readUInt32BE(0)
      if (length < LENGTH_OFFSET || length > LENGTH_OFFSET + MAX_SMALL_BYTES) {
        throw protocolError(`a frame of ${length} bytes`)
      }
      if (rest.byteLength < 4 + length) break
      yield {
        kind: rest[4] as number,
        request: rest.readUInt32BE(5),
        payload: rest.subarray(HEADER_BYTES, 4 + length),
      }
      rest = rest.subarray(4 + length)
    }
    // A copy: the buffer that it is a part of may be used again.
    this.#pending = Buffer.from(rest)
  }
}
