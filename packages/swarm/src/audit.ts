// Finds out who vouched for wrong bytes when a whole blob does not match its digest, at the cost of few chunks from the
// origin: one random chunk of every signer in each round, until somebody is caught or everything has been compared.
import { createHash } from 'node:crypto'
import type { VoucherBook } from './voucher-book.ts'

export interface Audit {
  book: VoucherBook
  /** Own peer id. */
  self: string
  /** One chunk from the origin. */
  fetchChunk: (chunk: number) => Promise<Uint8Array>
  /** The origin's bytes differ from what was vouched for: takes back the word of the signer. */
  expose: (chunk: number, data: Uint8Array) => Promise<void>
}

/**
 * Compares what others vouched for with the origin. Returns the signers that were caught; empty when the origin agrees with
 * all of them (then the origin itself is wrong).
 *
 * In a swarm every node comes to this at the same time. So each begins with another signer, and what one has found the others
 * try next: a liar is caught by all with two chunks each, not with one for every member.
 */
export async function findLiars({ book, self, fetchChunk, expose }: Audit): Promise<Set<string>> {
  const unchecked = new Map([...book.signers()].sort(([one], [other]) => ringOrder(one, other, self)))
  const liars = new Set<string>()
  const compare = async (chunk: number): Promise<void> => {
    const signer = book.signer(chunk)
    const data = await fetchChunk(chunk)
    const hash = createHash('sha256').update(data).digest()
    book.settleDoubt(chunk)
    // Whose word was taken back meanwhile is caught already. The word is what counts, not the bytes that are here.
    if (signer === undefined || hash.equals(book.hash(chunk) ?? hash)) return
    liars.add(signer)
    await expose(chunk, data)
  }
  while (unchecked.size > 0 && liars.size === 0) {
    for (const [signer, chunks] of unchecked) {
      for (const doubtful of book.doubts()) await compare(doubtful)
      if (liars.size > 0) break
      const at = Math.floor(Math.random() * chunks.length)
      const chunk = chunks[at]!
      chunks[at] = chunks[chunks.length - 1]!
      chunks.pop()
      if (chunks.length === 0) unchecked.delete(signer)
      await compare(chunk)
      if (liars.size > 0) break
    }
  }
  return liars
}

/** Peer ids from the one that follows `self` to the one before it. */
function ringOrder(one: string, other: string, self: string): number {
  return Number(one < self) - Number(other < self) || (one < other ? -1 : 1)
}
