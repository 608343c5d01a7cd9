// Takes up an arriving blob again where an earlier run left it, or starts a new one.
import { mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Digest } from '@shoal/oci'
import { BlobFile } from './blob-file.ts'
import type { BlobEntry } from './blob-table.ts'
import { CHUNK_HASH_BYTES, chunkCountFor, chunkLength, chunkStart } from './chunk-geometry.ts'
import { ChunkMap } from './chunk-map.ts'
import { asStoreError, errorCode } from './errors.ts'
import { type PartialBlobHost, type PartialBlobState } from './partial-blob.ts'
import { occupiedBytes } from './place-account.ts'
import { chunkKey, del, PARTIAL_HASHES, PARTIAL_MAPS, PARTIALS, put, ROOM_TO_OPEN_BYTES } from './store-index.ts'

/** Makes the rows, and then the file, of its full size but without content. */
export async function createPartial(host: PartialBlobHost, entry: BlobEntry, path: string): Promise<PartialBlobState> {
  const { digest, sizeBytes, lastUsedMs } = entry
  const chunkCount = chunkCountFor(sizeBytes)
  let file: BlobFile
  try {
    // On the disk before there is a new file: what the map says of an earlier one, of which the removal may be lost with the
    // power, would make chunks of its holes.
    const none = new ChunkMap(chunkCount).toBytes()
    const rows = [put(PARTIALS, digest, { sizeBytes, lastUsedMs }), put(PARTIAL_MAPS, digest, none)]
    await host.table.withRoomOnDisk(ROOM_TO_OPEN_BYTES, () => host.index.write(rows, true))
    file = await host.table.withRoomOnDisk(0, () => createFile(path, sizeBytes))
  } catch (error) {
    throw asStoreError(error, `starting ${digest}`)
  }
  const hashes = new Uint8Array(chunkCount * CHUNK_HASH_BYTES)
  return { entry, file, chunks: new ChunkMap(chunkCount), synced: new ChunkMap(chunkCount), hashes }
}

async function createFile(path: string, sizeBytes: number): Promise<BlobFile> {
  await mkdir(dirname(path), { recursive: true })
  const file = await BlobFile.open(path, 'w+')
  try {
    await file.setSize(sizeBytes)
    return file
  } catch (error) {
    await file.release()
    throw error
  }
}

/**
 * Reads what is known of an arriving blob. Chunks that were certainly on the disk count as there; others of which the
 * hash is known are hashed again. Undefined when nothing usable is left.
 */
export async function resumePartial(
  host: PartialBlobHost,
  entry: BlobEntry,
  path: string,
): Promise<PartialBlobState | undefined> {
  const { digest, sizeBytes } = entry
  const chunkCount = chunkCountFor(sizeBytes)
  let file: BlobFile
  try {
    file = await BlobFile.open(path, 'r+')
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined
    throw asStoreError(error, `resuming ${digest}`)
  }
  try {
    const hashes = new Uint8Array(chunkCount * CHUNK_HASH_BYTES)
    const known = new ChunkMap(chunkCount)
    for await (const [key, hash] of host.index.rows(PARTIAL_HASHES, `${digest}/`)) {
      const index = Number.parseInt(key.slice(digest.length + 1), 16)
      if (!(index < chunkCount) || hash.byteLength !== CHUNK_HASH_BYTES) continue
      hashes.set(hash, index * CHUNK_HASH_BYTES)
      known.add(index)
    }
    let recorded = await recordedChunks(host, digest, chunkCount)
    if ((await file.sizeBytes()) !== sizeBytes) {
      host.log.warn({ digest }, 'the file of an arriving blob was cut off; its chunks are checked again')
      recorded = new ChunkMap(chunkCount)
      await file.setSize(sizeBytes)
    }
    const chunks = new ChunkMap(chunkCount)
    const synced = new ChunkMap(chunkCount)
    const lost: number[] = []
    let knownBytes = 0
    for (const index of known.indices()) {
      if (recorded.has(index)) synced.add(index)
      else if (!(await isIntact(host, file, sizeBytes, index, hashes))) {
        lost.push(index)
        continue
      }
      chunks.add(index)
      knownBytes += chunkLength(sizeBytes, index)
    }
    const { allocatedBytes } = await file.state()
    host.table.resize(entry, occupiedBytes(sizeBytes, knownBytes, allocatedBytes))
    // What is not there must not be in the index when its place is written anew.
    const changes = lost.map((index) => del(PARTIAL_HASHES, chunkKey(digest, index)))
    changes.push(put(PARTIAL_MAPS, digest, synced.toBytes()))
    await host.table.withRoomOnDisk(ROOM_TO_OPEN_BYTES, () => host.index.write(changes, true))
    return { entry, file, chunks, synced, hashes }
  } catch (error) {
    await file.release()
    throw asStoreError(error, `resuming ${digest}`)
  }
}

async function recordedChunks(host: PartialBlobHost, digest: Digest, chunkCount: number): Promise<ChunkMap> {
  const bytes = await host.index.get(PARTIAL_MAPS, digest)
  if (bytes === undefined) return new ChunkMap(chunkCount)
  try {
    return ChunkMap.fromBytes(chunkCount, bytes)
  } catch {
    return new ChunkMap(chunkCount)
  }
}

async function isIntact(
  host: PartialBlobHost,
  file: BlobFile,
  sizeBytes: number,
  index: number,
  hashes: Uint8Array,
): Promise<boolean> {
  const { accepted } = await host.hashes.run({
    kind: 'range',
    descriptor: file.descriptor,
    position: chunkStart(sizeBytes, index),
    length: chunkLength(sizeBytes, index),
    chunk: true,
    expected: hashes.slice(index * CHUNK_HASH_BYTES, (index + 1) * CHUNK_HASH_BYTES),
  })
  return accepted
}
