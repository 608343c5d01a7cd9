// When bytes from a peer do not match the hash that another node vouched for, one of the two lies, and it cannot be said
// at once which: a wrong voucher would get every honest peer banned that sends the right bytes. So the bytes are refused
// and remembered, until a third voice decides.
import { createHash } from 'node:crypto'
import type { VoucherBook } from './voucher-book.ts'

export interface DisputesOptions {
  book: Pick<VoucherBook, 'signer' | 'voiceOf'>
  /** Own peer id: what this node itself fetched from the origin is right. */
  self: string
  /** A peer sent wrong bytes. */
  blame: (peerId: string) => void
  /** A node vouched for a wrong hash. */
  distrust: (signer: string) => Promise<void>
}

/** Bytes that were refused in one download, and what follows when it becomes clear who was right. */
export class Disputes {
  readonly #options: DisputesOptions
  /** Who sent what, by chunk: the SHA-256 of the bytes in hex. */
  readonly #refused = new Map<number, Map<string, string>>()

  constructor(options: DisputesOptions) {
    this.#options = options
  }

  /**
   * A peer sent bytes that do not match the hash of a chunk. Returns whether it has to be seen who is right: then the
   * peer should be left alone for a moment. When another peer had sent the very same bytes, it is the hash that is wrong.
   */
  async refuse(chunk: number, peerId: string, data: Uint8Array): Promise<boolean> {
    const { book, self, blame, distrust } = this.#options
    const signer = book.signer(chunk)
    // Its word was withdrawn meanwhile.
    if (signer === undefined) return false
    if (signer === peerId || signer === self) {
      blame(peerId)
      return false
    }
    const sha256 = createHash('sha256').update(data).digest('hex')
    // Who believed somebody else's word and passes it on is not one voice more.
    const voice = book.voiceOf(chunk, sha256, peerId)
    if (voice === undefined) return false
    let senders = this.#refused.get(chunk)
    if (senders === undefined) this.#refused.set(chunk, (senders = new Map<string, string>()))
    const isConfirmed = [...senders].some(([other, sent]) => other !== voice && sent === sha256)
    senders.set(voice, sha256)
    if (!isConfirmed) return true
    await distrust(signer)
    return false
  }

  /**
   * The hash of a chunk has turned out right, by the origin or by the whole blob: who had sent other bytes is to blame. That
   * another peer's bytes match shows nothing: it may have believed the same liar.
   */
  settle(chunk: number): void {
    const senders = this.#refused.get(chunk)
    this.#refused.delete(chunk)
    for (const peerId of senders?.keys() ?? []) this.#options.blame(peerId)
  }

  /** The whole blob is right. */
  settleAll(): void {
    for (const chunk of [...this.#refused.keys()]) this.settle(chunk)
  }

  /** The hashes of some chunks are not believed any more: what did not match them may have been right. */
  forget(chunks: Iterable<number>): void {
    for (const chunk of chunks) this.#refused.delete(chunk)
  }
}
