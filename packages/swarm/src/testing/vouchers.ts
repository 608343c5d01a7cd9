// Vouchers of a blob of eight chunks, and the books that they go into, for tests.
import { createHash } from 'node:crypto'
import { createIdentity, verifySignature, type ChunkVoucher, type Identity } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { VoucherBook } from '../voucher-book.ts'

export const digest = digestOf('blob')
export const CHUNKS = 8
export const [self, alice, bob] = await Promise.all([createIdentity(), createIdentity(), createIdentity()])
export const hashOf = (text: string) => createHash('sha256').update(text).digest()
export const good = Array.from({ length: CHUNKS }, (_, chunk) => hashOf(`chunk ${chunk}`))

export function makeBook(identity: Identity = self, chunkCount = CHUNKS): VoucherBook {
  const sign = (bytes: Uint8Array) => identity.sign(bytes)
  return new VoucherBook({ digest, chunkCount, self: identity.peerId, sign, verify: verifySignature })
}

/** What `identity` says of chunks, in its own hand. */
export function voucher(
  identity: Identity,
  chunks: number[],
  hashes = chunks.map((chunk) => good[chunk]!),
): ChunkVoucher {
  return makeBook(identity, 1000).vouch(chunks, Buffer.concat(hashes)).voucher
}
