// The files of blobs and their rows: how whole ones are opened, taken in and verified, and how any is removed. Nothing here
// locks: who calls has the lock of the digest.
import { mkdir, rename, rm } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Digest } from '@shoal/oci'
import { BlobFile, syncFolder, writeDurably } from './blob-file.ts'
import { newEntry, type BlobEntry, type BlobTable } from './blob-table.ts'
import { CHECKED_AT_ONCE_BYTES, type BlobTrust, type CheckedBlob } from './blob-trust.ts'
import type { BlobUses } from './blob-uses.ts'
import { verifyBlob } from './blob-verifier.ts'
import { CHUNK_HASH_BYTES, chunkCountFor } from './chunk-geometry.ts'
import { ChunkHasher } from './chunk-hasher.ts'
import { asStoreError, errorCode } from './errors.ts'
import type { HashService } from './hash-service.ts'
import {
  BLOBS,
  del,
  forgetPartial,
  HASHES,
  put,
  ROOM_TO_OPEN_BYTES,
  type IndexChange,
  type StoreIndex,
} from './store-index.ts'
import type { StoreLayout } from './store-layout.ts'
import type { OpenBlobs } from './stored-blob.ts'

export interface StoredFilesParts {
  layout: StoreLayout
  index: StoreIndex
  table: BlobTable
  hashes: HashService
  trust: BlobTrust
  /** Files that are open; they are closed before they are removed. */
  open: OpenBlobs
  /** Files that no row vouches for; they are taken out when they are adopted. */
  unverified: Set<Digest>
  uses: BlobUses
  /** Told of each whole blob whose file was removed. */
  removed: (digest: Digest) => void
  log: Logger
  /** Told of what goes wrong beside what was asked for. */
  logFailure: (error: unknown) => void
  /** Aborted, with the error for callers, when the store closes. */
  signal: AbortSignal
}

/** A whole blob whose file is open; who gets it releases the file. */
export interface WholeFile extends CheckedBlob {
  readonly entry: BlobEntry
}

export class StoredFiles {
  readonly #parts: StoredFilesParts

  constructor(parts: StoredFilesParts) {
    this.#parts = parts
  }

  /** Opens a whole blob for `OpenBlobs`. False when it is not what it should be; then it is removed. */
  async load(found: BlobEntry): Promise<boolean> {
    const whole = await this.#openWhole(found)
    if (whole === undefined) return false
    const { entry, ...checked } = whole
    if (entry.sizeBytes <= CHECKED_AT_ONCE_BYTES && !(await this.#intactOrReleased(checked))) return false
    const check = this.#parts.trust.checkOf(checked)
    const held = (held: boolean) => {
      entry.holds += held ? 1 : -1
    }
    this.#parts.open.add({ ...checked, mediaType: entry.mediaType, check, held }).release()
    return true
  }

  /** The same for one user, with all of it checked. */
  async openIntact(found: BlobEntry): Promise<WholeFile | undefined> {
    const whole = await this.#openWhole(found)
    return whole !== undefined && (await this.#intactOrReleased(whole)) ? whole : undefined
  }

  /** The file of a whole blob and the hashes of its chunks. Where those are lost, the blob is verified again. */
  async #openWhole(entry: BlobEntry): Promise<WholeFile | undefined> {
    const { index, table, unverified, log } = this.#parts
    const { digest, sizeBytes } = entry
    const file = await this.openFile(entry)
    if (file === undefined) return undefined
    const hashes = await index.get(HASHES, digest)
    if (hashes?.byteLength === chunkCountFor(sizeBytes) * CHUNK_HASH_BYTES) {
      return { entry, digest, sizeBytes, chunkHashes: Uint8Array.from(hashes), file }
    }
    log.warn({ digest }, 'the chunk hashes of a blob are lost; it is verified again')
    await file.release()
    table.remove(digest)
    // Until that has succeeded: where it cannot be read now, it is tried again.
    unverified.add(digest)
    await this.adopt(digest)
    const verified = table.get(digest)
    return verified?.complete === true ? this.#openWhole(verified) : undefined
  }

  /** Gives the file back when the blob is not what it should be, or cannot be read. */
  async #intactOrReleased(blob: CheckedBlob): Promise<boolean> {
    let intact = false
    try {
      return (intact = await this.#parts.trust.isIntact(blob))
    } finally {
      if (!intact) await blob.file.release()
    }
  }

  /** The file of a whole blob, unchecked. When it is gone or cut off, the blob is forgotten. */
  async openFile(entry: BlobEntry): Promise<BlobFile | undefined> {
    const { layout, log } = this.#parts
    const { digest } = entry
    try {
      const file = await BlobFile.open(layout.blobFile(digest), 'r')
      const sizeBytes = await file.sizeBytes()
      if (sizeBytes === entry.sizeBytes) return file
      log.warn({ digest, sizeBytes, expected: entry.sizeBytes }, 'the file of a blob was cut off; it is removed')
      await file.release()
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw asStoreError(error, `opening ${digest}`)
      log.warn({ digest }, 'the file of a blob is gone; the blob is forgotten')
    }
    await this.takeOut(entry)
    return undefined
  }

  /** Takes in a file whose bytes are on the disk and checked. Row first, then the move: see reconcile.ts. */
  async install(entry: BlobEntry, path: string, hashes: Uint8Array): Promise<void> {
    const { layout, index, table, trust, unverified, uses } = this.#parts
    const { digest } = entry
    const rows = [rowOf(entry), put(HASHES, digest, hashes)]
    await table.withRoomOnDisk(ROOM_TO_OPEN_BYTES + hashes.byteLength, () => index.write(rows, true))
    let isMoved = false
    const move = async () => {
      const folder = layout.blobFolder(digest)
      await mkdir(folder, { recursive: true })
      if (!isMoved) await rename(path, layout.blobFile(digest))
      isMoved = true
      await syncFolder(folder)
    }
    try {
      await table.withRoomOnDisk(0, move)
    } catch (error) {
      // Where it is now nobody would count it for the quota. Where it cannot go back, it is taken in when it is wanted.
      if (isMoved) await rename(layout.blobFile(digest), path).catch(() => unverified.add(digest))
      await index.write([del(BLOBS, digest), del(HASHES, digest)], true)
      throw asStoreError(error, `moving ${digest} to its place`)
    }
    table.markComplete(entry, entry.mediaType)
    trust.add(digest)
    unverified.delete(digest)
    uses.note(digest)
  }

  /** Takes in bytes that have this digest, in one go. @throws StoreFullError, StoreFailedError */
  async write(digest: Digest, bytes: Uint8Array, mediaType: string | undefined): Promise<void> {
    const { layout, index, table, open, logFailure } = this.#parts
    const known = table.get(digest)
    if (known?.complete === true) {
      if (mediaType === undefined || mediaType === known.mediaType) return
      open.forget(digest)
      known.mediaType = mediaType
      return table.withRoomOnDisk(ROOM_TO_OPEN_BYTES, () => index.write([rowOf(known)], true))
    }
    if (known !== undefined) await this.remove(known)
    const entry = table.add(newEntry(digest, bytes.byteLength))
    entry.holds++
    const path = layout.temporaryFile(digest)
    try {
      await table.reserve(entry, bytes.byteLength)
      await table.withRoomOnDisk(bytes.byteLength, () => writeDurably(path, bytes))
      entry.mediaType = mediaType
      const hasher = new ChunkHasher(bytes.byteLength)
      hasher.update(bytes)
      await this.install(entry, path, hasher.digest().hashes)
    } catch (error) {
      table.remove(digest)
      await rm(path, { force: true }).catch(logFailure)
      throw asStoreError(error, `storing ${digest}`)
    } finally {
      entry.holds--
    }
  }

  /**
   * Takes a blob out of the table and removes its files. Those that cannot be removed are not lost sight of: they take room.
   * @throws StoreFailedError
   */
  async takeOut(entry: BlobEntry): Promise<void> {
    const { table, unverified } = this.#parts
    const { digest } = entry
    if (table.get(digest) === entry) table.remove(digest)
    try {
      await this.remove(entry)
    } catch (error) {
      if (entry.complete) unverified.add(digest)
      else table.add(entry)
      throw error
    }
  }

  /** Removes the files of a blob, whole or arriving. Files first: a row without a file is found out at the next start. */
  async remove({ digest, sizeBytes, complete }: BlobEntry): Promise<void> {
    const { layout, index, trust, open, removed, logFailure } = this.#parts
    open.forget(digest)
    if (complete) trust.delete(digest)
    try {
      await rm(complete ? layout.blobFile(digest) : layout.partialFile(digest), { force: true })
    } catch (error) {
      throw asStoreError(error, `removing ${digest}`)
    }
    if (complete) removed(digest)
    const changes = complete
      ? [del(BLOBS, digest), del(HASHES, digest)]
      : forgetPartial(digest, chunkCountFor(sizeBytes))
    await index.write(changes, false).catch(logFailure)
  }

  /** Takes a file that no row vouches for into the store if its digest is right, and removes it if not. */
  async adopt(digest: Digest): Promise<void> {
    const { layout, index, table, hashes: service, trust, unverified, log, signal } = this.#parts
    const path = layout.blobFile(digest)
    let file: BlobFile | undefined
    try {
      file = await BlobFile.open(path, 'r')
      const { sizeBytes, modifiedMs } = await file.state()
      const hashes = await verifyBlob(service, file, digest, sizeBytes, signal)
      if (hashes === undefined) {
        log.warn({ digest }, 'a file does not have the digest that it is named by; it is removed')
        await rm(path, { force: true })
        await index.write([del(BLOBS, digest), del(HASHES, digest)], false)
      } else {
        const entry = { ...newEntry(digest, sizeBytes), storedBytes: sizeBytes, complete: true, lastUsedMs: modifiedMs }
        await index.write([rowOf(entry), put(HASHES, digest, hashes)], false)
        table.add(entry)
        trust.add(digest)
      }
    } catch (error) {
      signal.throwIfAborted()
      log.warn({ err: error, digest }, 'a blob could not be verified')
      // It takes room as long as it is there, so it is tried again by whoever wants it next.
      if (errorCode(error) !== 'ENOENT') return
    } finally {
      await file?.release()
    }
    unverified.delete(digest)
  }
}

/** The row of a whole blob. */
export function rowOf({ digest, sizeBytes, mediaType, lastUsedMs }: BlobEntry): IndexChange {
  return put(BLOBS, digest, { sizeBytes, lastUsedMs, ...(mediaType === undefined ? {} : { mediaType }) })
}
