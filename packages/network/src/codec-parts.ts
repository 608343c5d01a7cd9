// Protobuf of what several control messages share: digests, node addresses, vouchers. Field numbers are those of
// proto/shoal.proto; they are never used again for something else.
import type { Digest } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import { PbfWriter } from 'pbf'
import { InvalidMessageError } from './errors.ts'
import type { ChunkVoucher, NodeAddress } from './messages.ts'
import type { ProtoReader } from './proto-reader.ts'

/** How one kind of message becomes protobuf fields and back. */
export interface Codec<M> {
  write: (message: M, writer: PbfWriter) => void
  read: (reader: ProtoReader) => M
}

/** Bounds of what is accepted from others and of what may be sent. */
export const LIMITS = {
  /** Chunk indices in one message. */
  indices: 65_536,
  /** Largest chunk index. */
  index: 0xff_ffff,
  /** Bytes of a bit field: a million chunks. */
  bitFieldBytes: 131_072,
  vouchers: 1024,
  hashBytes: 32,
  signatureBytes: 64,
  addresses: 1024,
  multiaddrs: 32,
  multiaddrBytes: 512,
  peerIdBytes: 128,
  peerIds: 4096,
  transferBytes: 300,
  zoneBytes: 128,
  agentBytes: 128,
  hostBytes: 300,
  mediaTypeBytes: 255,
  referenceBytes: 1024,
  errorCodeBytes: 128,
  reasonBytes: 1024,
  holdings: 1024,
  preheatIdBytes: 64,
  platformBytes: 128,
} as const

/** 2^32-1: identifiers, counts and times in milliseconds. */
export const UINT32 = 0xffff_ffff

const MULTIHASH = { sha256: { code: 0x12, bytes: 32 }, sha512: { code: 0x13, bytes: 64 } } as const

/** Of the longest one. */
const MULTIHASH_BYTES = 2 + 64

/** In a rollout thousands of messages in a row name the same few digests. */
const multihashes = new LRUCache<Digest, Uint8Array>({ max: 64 })

/** A digest travels as a multihash: code, length, bytes. The same bytes may be given out again: nobody changes them. */
export function digestToMultihash(digest: Digest): Uint8Array {
  const known = multihashes.get(digest)
  if (known !== undefined) return known
  const [algorithm, hex] = digest.split(':', 2) as ['sha256' | 'sha512', string]
  const { code, bytes } = MULTIHASH[algorithm]
  const multihash = Buffer.allocUnsafe(2 + bytes)
  multihash[0] = code
  multihash[1] = bytes
  if (hex.length !== bytes * 2 || multihash.write(hex, 2, 'hex') !== bytes) {
    throw new InvalidMessageError(`Not a digest: ${digest}`)
  }
  multihashes.set(digest, multihash)
  return multihash
}

/**
 * Digests that were read lately, by four of their bytes. Making the text anew was a twentieth of a busy tracker's time, and the
 * same text each time is also found sooner in a table.
 */
const readDigests = new LRUCache<number, { multihash: Uint8Array; digest: Digest }>({ max: 256 })

/** Text of a digest. Does not keep `multihash`. @throws InvalidMessageError */
export function multihashToDigest(multihash: Uint8Array): Digest {
  const key = (multihash[2]! << 24) | (multihash[3]! << 16) | (multihash[4]! << 8) | multihash[5]!
  const known = readDigests.get(key)
  if (known !== undefined && Buffer.compare(known.multihash, multihash) === 0) return known.digest
  const digest = parseMultihash(multihash)
  readDigests.set(key, { multihash: Uint8Array.from(multihash), digest })
  return digest
}

function parseMultihash(multihash: Uint8Array): Digest {
  for (const [algorithm, { code, bytes }] of Object.entries(MULTIHASH) as [
    'sha256' | 'sha512',
    typeof MULTIHASH.sha256,
  ][]) {
    if (multihash[0] !== code) continue
    if (multihash[1] !== bytes || multihash.byteLength !== 2 + bytes) break
    return `${algorithm}:${Buffer.from(multihash.buffer, multihash.byteOffset + 2, bytes).toString('hex')}`
  }
  throw new InvalidMessageError('A digest is neither sha256 nor sha512')
}

export function readDigest(reader: ProtoReader): Digest {
  return multihashToDigest(reader.view(MULTIHASH_BYTES))
}

/** For messages that may say "none": an empty field. */
export function readOptionalDigest(reader: ProtoReader): Digest | '' {
  const multihash = reader.view(MULTIHASH_BYTES)
  return multihash.byteLength === 0 ? '' : multihashToDigest(multihash)
}

export function writeDigest(writer: PbfWriter, field: number, digest: Digest | ''): void {
  if (digest !== '') writer.writeBytesField(field, digestToMultihash(digest))
}

/** Messages that are about a blob must name it. */
export function required(digest: Digest | ''): Digest {
  if (digest === '') throw new InvalidMessageError('A message without its digest')
  return digest
}

// Defaults are left out, as proto3 has it.

export function writeUint(
  writer: PbfWriter,
  field: number,
  value: number,
  max: number = Number.MAX_SAFE_INTEGER,
): void {
  if (!Number.isSafeInteger(value) || value < 0 || value > max) {
    throw new InvalidMessageError(`${value} in field ${field} is no whole number from 0 to ${max}`)
  }
  if (value !== 0) writer.writeVarintField(field, value)
}

export function writeBool(writer: PbfWriter, field: number, value: boolean): void {
  if (value) writer.writeBooleanField(field, true)
}

export function writeString(writer: PbfWriter, field: number, value: string, maxBytes: number): void {
  if (value === '') return
  const bytes = Buffer.from(value)
  if (bytes.byteLength > maxBytes) {
    throw new InvalidMessageError(`A text of ${bytes.byteLength} bytes in field ${field}; ${maxBytes} are allowed`)
  }
  writer.writeBytesField(field, bytes)
}

/** For texts that are written for people: the end is lost rather than the message. */
export function writeProse(writer: PbfWriter, field: number, value: string, maxBytes: number): void {
  const bytes = Buffer.from(value)
  // A cut inside of a character must not make the text invalid: the decoder puts in a mark, which is cut off.
  const text =
    bytes.byteLength <= maxBytes
      ? value
      : bytes
          .subarray(0, maxBytes - 3)
          .toString()
          .replace(/\uFFFD+$/, '')
  writeString(writer, field, text, maxBytes)
}

export function writeBytes(writer: PbfWriter, field: number, value: Uint8Array, maxBytes: number): void {
  if (value.byteLength > maxBytes) {
    throw new InvalidMessageError(`${value.byteLength} bytes in field ${field}; ${maxBytes} are allowed`)
  }
  if (value.byteLength > 0) writer.writeBytesField(field, value)
}

export function writeIndices(writer: PbfWriter, field: number, indices: readonly number[]): void {
  if (indices.length > LIMITS.indices) {
    throw new InvalidMessageError(`${indices.length} chunk indices; ${LIMITS.indices} are allowed`)
  }
  for (const index of indices) {
    if (!Number.isInteger(index) || index < 0 || index > LIMITS.index) {
      throw new InvalidMessageError(`${index} is no chunk index`)
    }
  }
  writer.writePackedVarint(field, indices as number[])
}

export function readIndices(reader: ProtoReader, into: number[]): void {
  reader.uints(into, LIMITS.indices, LIMITS.index)
}

/** Reads one more of a repeated message. */
export function readInto<T>(reader: ProtoReader, into: T[], max: number, read: (reader: ProtoReader) => T): void {
  if (into.length >= max) throw new InvalidMessageError(`More than ${max} entries in a list`)
  into.push(reader.message(read))
}

export function writeEach<T>(
  writer: PbfWriter,
  field: number,
  values: readonly T[],
  max: number,
  write: (value: T, writer: PbfWriter) => void,
): void {
  assertAtMost(max, field, values)
  for (const value of values) writer.writeMessage(field, write, value)
}

function assertAtMost(max: number, field: number, values: readonly unknown[]): void {
  if (values.length > max)
    throw new InvalidMessageError(`${values.length} entries in field ${field}; ${max} are allowed`)
}

/** Addresses as they were encoded before: a tracker names each member to dozens of others. */
const encodedAddresses = new WeakMap<NodeAddress, Uint8Array>()

export function writeAddresses(writer: PbfWriter, field: number, addresses: readonly NodeAddress[]): void {
  assertAtMost(LIMITS.addresses, field, addresses)
  for (const address of addresses) {
    let bytes = encodedAddresses.get(address)
    if (bytes === undefined) {
      const own = new PbfWriter()
      nodeAddress.write(address, own)
      encodedAddresses.set(address, (bytes = own.finish().slice()))
    }
    writer.writeBytesField(field, bytes)
  }
}

export const nodeAddress: Codec<NodeAddress> = {
  write(node, writer) {
    writeString(writer, 1, node.peerId, LIMITS.peerIdBytes)
    if (node.multiaddrs.length > LIMITS.multiaddrs) throw new InvalidMessageError('Too many multiaddrs for one node')
    for (const multiaddr of node.multiaddrs) writeString(writer, 2, multiaddr, LIMITS.multiaddrBytes)
    writeString(writer, 3, node.transfer, LIMITS.transferBytes)
    writeString(writer, 4, node.zone, LIMITS.zoneBytes)
  },
  read(reader) {
    const node = { peerId: '', multiaddrs: [] as string[], transfer: '', zone: '' }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) node.peerId = reader.string(LIMITS.peerIdBytes)
      else if (field === 2) {
        if (node.multiaddrs.length >= LIMITS.multiaddrs)
          throw new InvalidMessageError('Too many multiaddrs for one node')
        node.multiaddrs.push(reader.string(LIMITS.multiaddrBytes))
      } else if (field === 3) node.transfer = reader.string(LIMITS.transferBytes)
      else if (field === 4) node.zone = reader.string(LIMITS.zoneBytes)
    }
    return node
  },
}

export const chunkVoucher: Codec<ChunkVoucher> = {
  write(voucher, writer) {
    if (voucher.hashes.byteLength !== voucher.indices.length * LIMITS.hashBytes) {
      throw new InvalidMessageError('A voucher needs 32 bytes of hash for every index')
    }
    writeIndices(writer, 1, voucher.indices)
    writeBytes(writer, 2, voucher.hashes, LIMITS.indices * LIMITS.hashBytes)
    writeString(writer, 3, voucher.signer, LIMITS.peerIdBytes)
    writeBytes(writer, 4, voucher.signature, LIMITS.signatureBytes)
  },
  read(reader) {
    const voucher: ChunkVoucher = { indices: [], hashes: new Uint8Array(), signer: '', signature: new Uint8Array() }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) readIndices(reader, voucher.indices)
      else if (field === 2) voucher.hashes = reader.bytes(LIMITS.indices * LIMITS.hashBytes)
      else if (field === 3) voucher.signer = reader.string(LIMITS.peerIdBytes)
      else if (field === 4) voucher.signature = reader.bytes(LIMITS.signatureBytes)
    }
    if (voucher.hashes.byteLength !== voucher.indices.length * LIMITS.hashBytes) {
      throw new InvalidMessageError('A voucher needs 32 bytes of hash for every index')
    }
    return voucher
  },
}
