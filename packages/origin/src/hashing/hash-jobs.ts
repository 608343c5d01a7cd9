// Hashing of blobs while they grow, apart from where it runs: in a thread (hash-thread.ts) or inline. Bytes come from a
// file that is still being written, in pieces that fit the processor's cache, and each piece goes into both hashes: that
// of the whole blob and that of its chunk.
import { createHash, type Hash } from 'node:crypto'
import { readSync } from 'node:fs'
import { ChunkHasher } from '@shoal/store'

const PIECE_BYTES = 256 * 1024

export interface HashPlan {
  /** Of the whole blob; left out when only the chunks are wanted. */
  algorithm?: 'sha256' | 'sha512'
  /** Size of the whole blob, when it is known: decides where its chunks lie. Without it no chunks are hashed. */
  sizeBytes?: number
}

export interface HashResult {
  /** Of the whole, in hex. */
  hex: string | undefined
  /** SHA-256 of every chunk. */
  chunkHashes: Uint8Array | undefined
}

/** Both hashes of one blob. */
export class BlobHash {
  readonly #whole: Hash | undefined
  readonly #chunks: ChunkHasher | undefined
  #bytes = 0

  constructor(plan: HashPlan) {
    this.#whole = plan.algorithm && createHash(plan.algorithm)
    this.#chunks = plan.sizeBytes === undefined ? undefined : new ChunkHasher(plan.sizeBytes)
  }

  /** @throws RangeError when there are more bytes than the size that was given */
  update(piece: Uint8Array): void {
    this.#whole?.update(piece)
    this.#chunks?.update(piece)
    this.#bytes += piece.byteLength
  }

  /** @throws RangeError when there were fewer bytes than the size that was given */
  result(): HashResult {
    return { hex: this.#whole?.digest('hex'), chunkHashes: this.#chunks?.digest().hashes }
  }

  get bytes(): number {
    return this.#bytes
  }
}

/** Hash the next part of a blob, which begins where the last one ended. */
export interface RangeJob {
  kind: 'range'
  id: number
  plan: HashPlan
  descriptor: number
  position: number
  length: number
}

/** Answer with the hashes and forget the blob. */
export interface ResultJob {
  kind: 'result'
  id: number
  plan: HashPlan
}

export interface DropJob {
  kind: 'drop'
  id: number
}

export type HashJob = RangeJob | ResultJob | DropJob

export class HashJobs {
  readonly #blobs = new Map<number, BlobHash>()
  readonly #piece = Buffer.allocUnsafeSlow(PIECE_BYTES)

  run(job: HashJob): HashResult | undefined {
    if (job.kind === 'drop') {
      this.#blobs.delete(job.id)
      return undefined
    }
    let blob = this.#blobs.get(job.id)
    if (!blob) this.#blobs.set(job.id, (blob = new BlobHash(job.plan)))
    if (job.kind === 'result') {
      this.#blobs.delete(job.id)
      return blob.result()
    }
    if (blob.bytes !== job.position) throw new Error(`the hash is at byte ${blob.bytes}, not ${job.position}`)
    for (let done = 0; done < job.length;) {
      const wanted = Math.min(PIECE_BYTES, job.length - done)
      const count = readSync(job.descriptor, this.#piece, 0, wanted, job.position + done)
      if (count === 0) throw new Error(`the file ends before byte ${job.position + job.length}`)
      blob.update(this.#piece.subarray(0, count))
      done += count
    }
    return undefined
  }
}
