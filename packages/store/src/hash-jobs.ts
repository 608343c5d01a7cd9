// The hashing of parts of files, apart from where it runs: in a thread of its own (hash-thread.ts) or inline. The bytes
// are read back from the page cache in pieces that fit the processor's cache, and each piece goes into both hashes: that
// of its chunk and that of the whole blob. So neither is on the main thread and no buffer changes hands.
import { createHash, type Hash } from 'node:crypto'
import { readSync } from 'node:fs'
import { readBuffer } from '@shoal/oci'

const PIECE_BYTES = 256 * 1024

/** Hash a part of a file. */
export interface RangeJob {
  kind: 'range'
  descriptor: number
  position: number
  length: number
  /** Whether to answer with the SHA-256 of this part alone. */
  chunk: boolean
  /** When given, a part with another SHA-256 is refused, and does not enter the whole. */
  expected?: Uint8Array
  /** Continue the hash of a whole blob with this part: it must begin where the last one ended. */
  whole?: WholeReference
}

/** Answer with the hash of all parts so far. */
export interface DigestJob {
  kind: 'digest'
  whole: WholeReference
}

/** Forget the hash of a whole blob. */
export interface DropJob {
  kind: 'drop'
  whole: WholeReference
}

export interface WholeReference {
  id: number
  algorithm: 'sha256' | 'sha512'
}

export type HashJob = RangeJob | DigestJob | DropJob

export interface HashResult {
  /** Hash of the part (`range` with `chunk`) or of the whole (`digest`). */
  hash: Uint8Array | undefined
  /** False when the part did not have the expected hash. */
  accepted: boolean
  /** Bytes of the whole hashed so far. */
  wholeBytes: number
}

interface Whole {
  hash: Hash
  bytes: number
}

export class HashJobs {
  readonly #wholes = new Map<number, Whole>()
  readonly #piece = readBuffer(PIECE_BYTES)

  run(job: HashJob): HashResult {
    if (job.kind === 'drop') {
      this.#wholes.delete(job.whole.id)
      return { hash: undefined, accepted: true, wholeBytes: 0 }
    }
    if (job.kind === 'digest') {
      const { hash, bytes } = this.#whole(job.whole)
      return { hash: hash.copy().digest(), accepted: true, wholeBytes: bytes }
    }
    return this.#range(job)
  }

  #range(job: RangeJob): HashResult {
    const whole = job.whole && this.#whole(job.whole)
    if (whole !== undefined && whole.bytes !== job.position) {
      throw new Error(`the hash of the whole is at byte ${whole.bytes}, not ${job.position}`)
    }
    const chunkHash = job.chunk ? createHash('sha256') : undefined
    const wholeHash = whole?.hash.copy()
    for (let done = 0; done < job.length;) {
      const wanted = Math.min(PIECE_BYTES, job.length - done)
      const count = readSync(job.descriptor, this.#piece, 0, wanted, job.position + done)
      if (count === 0) throw new Error(`the file ends before byte ${job.position + job.length}`)
      const piece = count === PIECE_BYTES ? this.#piece : this.#piece.subarray(0, count)
      chunkHash?.update(piece)
      wholeHash?.update(piece)
      done += count
    }
    const hash = chunkHash?.digest()
    const accepted = job.expected === undefined || hash?.equals(job.expected) === true
    if (accepted && whole !== undefined && wholeHash !== undefined) {
      whole.hash = wholeHash
      whole.bytes += job.length
    }
    return { hash, accepted, wholeBytes: whole?.bytes ?? 0 }
  }

  #whole({ id, algorithm }: WholeReference): Whole {
    let whole = this.#wholes.get(id)
    if (whole === undefined) this.#wholes.set(id, (whole = { hash: createHash(algorithm), bytes: 0 }))
    return whole
  }
}
