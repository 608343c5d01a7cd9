// What the embedded registry asks of the place where it keeps things: a folder or a bucket of an object store. Few and
// coarse operations, each of them atomic, so that a crash between any two leaves nothing half visible. Every driver
// passes the suite in conformance.ts.
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

export interface StoredObject extends ObjectStat {
  path: string
}

/**
 * Paths are relative, with `/` between parts; every part is made by layout.ts from checked names and never leads
 * upward.
 */
export interface StorageDriver {
  /** Other processes may change what is stored at any time, so what was read may not be remembered for long. */
  readonly isShared: boolean
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
  /** Bytes from `start` to `end`, both inclusive; none when `end` is before `start`. @throws when there is no object */
  openRead(path: string, start: number, end: number): Promise<Readable>
  /** Random access, where it costs nothing; left out by object stores. */
  openFile?(path: string): Promise<StoredFile>
  /** False when there was none. Durable. */
  remove(path: string): Promise<boolean>
  /** What lies directly under a folder, in the order of the bytes of the names; empty when there is none. */
  list(folder: string): Promise<ListedEntry[]>
  /** Every object below a folder, however deep, in no order; what comes and goes meanwhile may be missed. */
  walk(folder: string): AsyncIterable<StoredObject>

  /** The bytes of an upload, to append to; made when missing. Only one at a time for each id in a process. */
  openUpload(id: string): Promise<UploadFile>
  /** Drops all that an upload has left, also of a promotion that a crash broke off. */
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
export interface UploadFile {
  readonly sizeBytes: number
  /** Of the open file, where there is one, for reading in another thread. */
  readonly descriptor?: number
  /**
   * Changes when another process has changed the upload, so that nobody goes on with what it remembers of other bytes.
   * Compare it between one `close` and the next `openUpload`.
   */
  readonly version: string
  /** Appends all pieces in one go. After a failure `sizeBytes` tells what is there. */
  append(pieces: Uint8Array[]): Promise<void>
  /** Takes back what was appended last. */
  truncate(sizeBytes: number): Promise<void>
  /** All bytes so far, from the first. */
  stream(): Promise<Readable>
  /**
   * Makes exactly these bytes an object, replacing one that is there. Durable. What is left then is to close the upload
   * and to remove it.
   * @throws when another process took the upload over
   */
  promote(path: string): Promise<void>
  /** What was appended stays and is seen by other processes from now on. @throws when it could not be kept */
  close(): Promise<void>
}
