// Finds out who vouched for wrong bytes when a whole blob does not match its digest, at the cost of few chunks from the
// origin: one random chunk of every signer in each round, until somebody is caught or everything has been compared.
import { createHash } from 'node:crypto'
import type { VoucherBook } from './voucher-book.ts'

export interface Audit {
  book: VoucherBook
  /** Own peer id. */
  self: string
  /** One chunk from the origin. */
  fetchChunk: (chunk: number, signal: AbortSignal) => Promise<Uint8Array>
  /** The origin's bytes differ from what was vouched for: takes back the word of the signer. */
  expose: (chunk: number, data: Uint8Array) => Promise<void>
  /** Two others have caught a signer: its word is to count for nothing until the blob is right. */
  setAside: (signer: string) => Promise<void>
}

/**
 * Compares what others vouched for with the origin. Returns the signers whose word does not count any more; empty when the
 * origin agrees with all of them (then the origin itself is wrong).
 *
 * In a swarm every node comes to this at the same time. So each begins with another signer, and what one has found the others
 * try next. What two have found the rest takes for true without asking the origin: it is only fetched anew, and whether it was
 * wrong shows when the blob is right. Thousands of nodes would else fetch a chunk or two each.
 */
export async function findLiars({ book, self, fetchChunk, expose, setAside }: Audit): Promise<Set<string>> {
  const unchecked = new Map([...book.signers()].sort(([one], [other]) => ringOrder(one, other, self)))
  const signers = [...unchecked.keys()]
  // Whoever caught them: what the origin or other peers sent meanwhile may have shown it, too.
  const caught = () => signers.filter((signer) => book.distrusts(signer))
  const compare = async (chunk: number): Promise<void> => {
    const { accused, data } = await fetchUnlessAccused(book, chunk, fetchChunk)
    for (const signer of accused) await setAside(signer)
    if (data === undefined) return
    const hash = createHash('sha256').update(data).digest()
    book.settleDoubt(chunk)
    // The word is what counts, not the bytes that are here. It may have been taken back meanwhile.
    if (!hash.equals(book.hash(chunk) ?? hash)) await expose(chunk, data)
  }
  while (unchecked.size > 0 && caught().length === 0) {
    for (const [signer, chunks] of unchecked) {
      for (const doubtful of book.doubts()) {
        if (caught().length === 0) await compare(doubtful)
      }
      if (caught().length > 0) break
      const at = Math.floor(Math.random() * chunks.length)
      const chunk = chunks[at]!
      chunks[at] = chunks[chunks.length - 1]!
      chunks.pop()
      if (chunks.length === 0) unchecked.delete(signer)
      await compare(chunk)
      if (caught().length > 0) break
    }
  }
  return new Set(caught())
}

/** A chunk from the origin, or instead of it those of whom two others have found out that they lie. */
async function fetchUnlessAccused(
  book: VoucherBook,
  chunk: number,
  fetchChunk: Audit['fetchChunk'],
): Promise<{ accused: string[]; data?: Uint8Array }> {
  const before = book.accused()
  if (before.length > 0) return { accused: before }
  const interrupted = new AbortController()
  book.onAccused = () => interrupted.abort()
  try {
    return { accused: [], data: await fetchChunk(chunk, interrupted.signal) }
  } catch (error) {
    // One who was accused may have been caught by the time that the question has ended.
    if (!interrupted.signal.aborted) throw error
    return { accused: book.accused() }
  } finally {
    book.onAccused = undefined
  }
}

/** Peer ids from the one that follows `self` to the one before it. */
function ringOrder(one: string, other: string, self: string): number {
  return Number(one < self) - Number(other < self) || (one < other ? -1 : 1)
}
