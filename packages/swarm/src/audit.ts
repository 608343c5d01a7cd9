// Finds out who vouched for wrong bytes when a whole blob does not match its digest, at the cost of few chunks from the
// origin: one random chunk of every signer in each round, until somebody is caught or everything has been compared.
import { createHash } from 'node:crypto'
import type { VoucherBook } from './voucher-book.ts'

/**
 * Compares what others vouched for with the origin. Returns the peer ids of signers that were caught; empty when the
 * origin agrees with all of them (then the origin itself is wrong).
 */
export async function findLiars(
  book: VoucherBook,
  fetchChunk: (chunk: number) => Promise<Uint8Array>,
): Promise<Set<string>> {
  const unchecked = book.signers()
  const liars = new Set<string>()
  while (unchecked.size > 0 && liars.size === 0) {
    for (const [signer, chunks] of unchecked) {
      const at = Math.floor(Math.random() * chunks.length)
      const chunk = chunks[at]!
      chunks[at] = chunks[chunks.length - 1]!
      chunks.pop()
      if (chunks.length === 0) unchecked.delete(signer)
      const data = await fetchChunk(chunk)
      const hash = createHash('sha256').update(data).digest()
      // The word is what is held against the signer, not the bytes that are here.
      if (!hash.equals(book.hash(chunk) ?? hash)) liars.add(signer)
    }
  }
  return liars
}
