// A containerd content store on the same machine as a second source of whole blobs. It is only ever read: never
// written, never deleted from, and it does not count against the quota.
import { watch, type FSWatcher } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { digestAlgorithm, digestHex, isDigest, type Digest } from '@shoal/oci'
import { BlobFile } from './blob-file.ts'
import { BlobTrust, CHECKED_AT_ONCE_BYTES } from './blob-trust.ts'
import { verifyBlob } from './blob-verifier.ts'
import { CHUNK_HASH_BYTES, chunkCountFor } from './chunk-geometry.ts'
import { errorCode } from './errors.ts'
import type { HashService } from './hash-service.ts'
import { del, FOREIGN, FOREIGN_HASHES, isPlausible, put, type ForeignRow, type StoreIndex } from './store-index.ts'
import type { OpenBlob } from './stored-blob.ts'
import type { StoreEntry } from './store.ts'

export class ForeignContent {
  /** Told of what is not to be had here any more. */
  onRemoved: ((digest: Digest) => void) | undefined
  readonly #folder: string
  readonly #index: StoreIndex
  readonly #hashes: HashService
  readonly #log: Logger
  readonly #trust: BlobTrust
  /** What is there as far as is known. Only an answer to `has`: `open` looks itself. */
  readonly #present = new Set<Digest>()
  /** Files whose content was not what their name says, as they were then. */
  readonly #bad = new Map<Digest, ForeignRow>()
  /** Files whose content was read and is right, as they were then. */
  readonly #verified = new Map<Digest, ForeignRow>()
  readonly #opening = new Set<Promise<unknown>>()
  readonly #closing = new AbortController()
  #watcher: FSWatcher | undefined

  constructor(directory: string, options: { index: StoreIndex; hashes: HashService; log: Logger }) {
    this.#folder = join(directory, 'blobs', 'sha256')
    this.#index = options.index
    this.#hashes = options.hashes
    this.#log = options.log
    this.#trust = new BlobTrust(options.hashes, (digest) => this.#damaged(digest))
  }

  /** Reads which blobs are there, and goes on watching. A folder that is missing (yet) is not an error. */
  async start(): Promise<void> {
    try {
      this.#watcher = watch(this.#folder, { persistent: false }, (_event, name) => this.#changed(name))
      this.#watcher.on('error', (error) => {
        this.#log.warn({ err: error, folder: this.#folder }, 'containerd content is no longer watched')
      })
    } catch (error) {
      this.#log.warn({ err: error, folder: this.#folder }, 'containerd content cannot be watched')
    }
    const names = await readdir(this.#folder).catch((): string[] => [])
    for (const name of names) {
      const digest = `sha256:${name}`
      if (isDigest(digest)) this.#present.add(digest)
    }
    for await (const [digest, row] of this.#index.digestRows(FOREIGN)) {
      if (this.#present.has(digest) && isPlausible(row, 'modifiedMs')) this.#verified.set(digest, row)
      else await this.#index.write([del(FOREIGN, digest), del(FOREIGN_HASHES, digest)], false)
    }
  }

  has(digest: Digest): boolean {
    return this.#present.has(digest)
  }

  /**
   * The blob, verified: before the first use by reading all of it. When size and time of change are what they were then,
   * each chunk is looked at before this process first hands it out: the disk may have harmed it meanwhile.
   */
  async open(digest: Digest): Promise<OpenBlob | undefined> {
    if (digestAlgorithm(digest) !== 'sha256') return undefined
    const opening = this.#open(digest)
    this.#opening.add(opening)
    try {
      return await opening
    } finally {
      this.#opening.delete(opening)
    }
  }

  /** What was verified so far and is still there, as rows of a list: it takes none of our bytes. */
  *entries(): Generator<StoreEntry> {
    for (const [digest, { sizeBytes, modifiedMs }] of this.#verified) {
      if (!this.#present.has(digest)) continue
      yield { digest, sizeBytes, storedBytes: 0, complete: true, pinned: false, lastUsedMs: modifiedMs }
    }
  }

  async close(): Promise<void> {
    this.#closing.abort()
    this.#watcher?.close()
    await Promise.allSettled(this.#opening)
  }

  async #open(digest: Digest): Promise<OpenBlob | undefined> {
    let file: BlobFile
    try {
      file = await BlobFile.open(join(this.#folder, digestHex(digest)), 'r')
    } catch (error) {
      this.#absent(digest)
      if (errorCode(error) !== 'ENOENT') this.#log.warn({ err: error, digest }, 'containerd content cannot be read')
      return undefined
    }
    try {
      const { sizeBytes, modifiedMs } = await file.state()
      const chunkHashes = await this.#verify(digest, file, { sizeBytes, modifiedMs })
      if (chunkHashes !== undefined) {
        const blob = { digest, sizeBytes, chunkHashes, file }
        if (sizeBytes > CHECKED_AT_ONCE_BYTES || (await this.#trust.isIntact(blob))) {
          this.#present.add(digest)
          return { ...blob, mediaType: undefined, check: this.#trust.checkOf(blob), held: () => undefined }
        }
      }
    } catch (error) {
      this.#log.warn({ err: error, digest }, 'containerd content could not be verified')
    }
    this.#absent(digest)
    await file.release()
    return undefined
  }

  async #verify(digest: Digest, file: BlobFile, state: ForeignRow): Promise<Uint8Array | undefined> {
    if (isSame(this.#verified.get(digest), state)) {
      const known = await this.#index.get(FOREIGN_HASHES, digest)
      if (known?.byteLength === chunkCountFor(state.sizeBytes) * CHUNK_HASH_BYTES) return known
    }
    if (isSame(this.#bad.get(digest), state)) return undefined
    this.#trust.delete(digest)
    const hashes = await verifyBlob(this.#hashes, file, digest, state.sizeBytes, this.#closing.signal)
    if (hashes === undefined) {
      await this.#reject(digest, state)
      return undefined
    }
    this.#bad.delete(digest)
    this.#verified.set(digest, state)
    this.#trust.add(digest)
    await this.#index.write([put(FOREIGN, digest, state), put(FOREIGN_HASHES, digest, hashes)], false)
    return hashes
  }

  /** A chunk is not what it was when the file was verified. */
  #damaged(digest: Digest): void {
    const state = this.#verified.get(digest)
    if (state === undefined) return
    this.#reject(digest, state).catch((error: unknown) => {
      if (!this.#closing.signal.aborted) this.#log.warn({ err: error, digest }, 'damaged content could not be noted')
    })
  }

  /** The file is not used as long as it stays as it is. */
  async #reject(digest: Digest, state: ForeignRow): Promise<void> {
    this.#log.warn({ digest, folder: this.#folder }, 'containerd content does not have its digest; it is not used')
    this.#bad.set(digest, state)
    this.#verified.delete(digest)
    this.#absent(digest)
    this.#trust.delete(digest)
    await this.#index.write([del(FOREIGN, digest), del(FOREIGN_HASHES, digest)], false)
  }

  #changed(name: string | null): void {
    const digest = `sha256:${name ?? ''}`
    if (name === null || !isDigest(digest)) return
    stat(join(this.#folder, name)).then(
      () => this.#present.add(digest),
      () => this.#absent(digest),
    )
  }

  #absent(digest: Digest): void {
    if (this.#present.delete(digest)) this.onRemoved?.(digest)
  }
}

function isSame(known: ForeignRow | undefined, state: ForeignRow): boolean {
  return known?.sizeBytes === state.sizeBytes && known.modifiedMs === state.modifiedMs
}
