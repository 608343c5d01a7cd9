// What the embedded registry asks of the place where it keeps things: a folder now, an object store later. Few and
// coarse operations, each of them atomic, so that a crash between any two leaves nothing half visible.
import type { Readable } from 'node:stream'
import type { BlobFile } from '@shoal/registry'

export interface ObjectStat {
  sizeBytes: number
  /** Milliseconds since the epoch. */
  modifiedMs: number
}

export interface ListedEntry {
  name: string
  /** Whether other objects lie under this name. */
  isFolder: boolean
}

/**
 * Paths are relative, with `/` between parts; every part is made by layout.ts from checked names and never leads
 * upward.
 */
export interface StorageDriver {
  /** Small objects, whole. Undefined when there is none. */
  read(path: string): Promise<Buffer | undefined>
  /**
   * Replaces a small object as a whole: readers see the old or the new one. Durable when the promise resolves, unless
   * that is waived.
   */
  write(path: string, bytes: Uint8Array, options?: { durable?: boolean }): Promise<void>
  stat(path: string): Promise<ObjectStat | undefined>
  /** Sets the time of modification to now. False when there is no such object. */
  touch(path: string): Promise<boolean>
  /** Bytes from `start` to `end`, both inclusive, in buffers of 1 MiB. @throws when there is no such object */
  openRead(path: string, start: number, end: number): Promise<Readable>
  /** Random access, where it costs nothing; left out by object stores. */
  openFile?(path: string): Promise<StoredFile>
  /** False when there was none. Durable. */
  remove(path: string): Promise<boolean>
  /** What lies directly under a folder, in the order of the bytes of the names; empty when there is none. */
  list(folder: string): Promise<ListedEntry[]>

  /** The bytes of an upload, to append to; made when missing. Only one at a time for each id. */
  openUpload(id: string): Promise<UploadFile>
  /** Makes what was uploaded an object, replacing one that is there. Durable; the upload is gone afterwards. */
  promoteUpload(id: string, path: string): Promise<void>
  removeUpload(id: string): Promise<void>
  /** Uploads that have bytes. */
  listUploads(): Promise<{ id: string; modifiedMs: number }[]>
  close(): Promise<void>
}

export interface StoredFile extends BlobFile {
  /** Of the open file, where there is one, for reading in another thread. */
  readonly descriptor?: number
}

/** Bytes that are arriving. */
export interface UploadFile extends StoredFile {
  readonly sizeBytes: number
  /** Appends all pieces in one go. After a failure `sizeBytes` tells what is there. */
  append(pieces: Uint8Array[]): Promise<void>
  /** Takes back what was appended last. */
  truncate(sizeBytes: number): Promise<void>
}
