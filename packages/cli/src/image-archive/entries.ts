// The files of an image archive, wherever they are: in a folder, in a tar, in a compressed tar. A tar is read once from
// end to end, so that one that was cut is noticed before anything is sent anywhere.
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { lstat, mkdtemp, open, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, posix } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { extract } from 'tar-stream'
import { ArchiveError, MAX_JSON_BYTES } from './failure.ts'

const READ_BYTES = 1024 * 1024
const MAX_ENTRIES = 100_000
const MAX_LINKS = 8
const HEADER_BYTES = 512

export interface Entry {
  sizeBytes: number
  /** SHA-256 of the content in hexadecimal; undefined where it is not known without reading it, as in a folder. */
  sha256?: string
}

export interface Entries {
  /** What messages call it. */
  archive: string
  find(name: string): Promise<Entry | undefined>
  /** The bytes of a file from `start` on. @throws ArchiveError when it is not there */
  open(name: string, start: number): Promise<Readable>
  close(): Promise<void>
}

/** @throws ArchiveError when it is not there, or no whole tar */
export async function openEntries(path: string, signal: AbortSignal): Promise<Entries> {
  const kind = await stat(path).catch((cause: Error) => {
    throw new ArchiveError(path, `cannot be read: ${cause.message}`, { cause })
  })
  if (kind.isDirectory()) return new FolderEntries(path)
  const unpack = await decompressorOf(path)
  if (unpack === undefined) return await TarEntries.read(path, path, undefined, signal)
  const folder = await mkdtemp(join(tmpdir(), 'shoal-image-'))
  try {
    const plain = join(folder, 'image.tar')
    await pipeline(createReadStream(path, { highWaterMark: READ_BYTES }), unpack, createWriteStream(plain), { signal })
    return await TarEntries.read(path, plain, folder, signal)
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    signal.throwIfAborted()
    if (error instanceof ArchiveError) throw error
    const { message } = error as Error
    throw new ArchiveError(path, `it is damaged or cut off, or there is no room to unpack it: ${message}`, {
      cause: error,
    })
  }
}

/** The content of a small file. @throws ArchiveError when it is not there or not small */
export async function readEntry(entries: Entries, name: string): Promise<Buffer> {
  const entry = await entries.find(name)
  if (entry === undefined) throw new ArchiveError(entries.archive, `${name} is missing; the archive is incomplete`)
  if (entry.sizeBytes > MAX_JSON_BYTES) {
    throw new ArchiveError(entries.archive, `${name} has ${entry.sizeBytes} bytes, more than ${MAX_JSON_BYTES}`)
  }
  const pieces: Buffer[] = []
  for await (const piece of (await entries.open(name, 0)) as AsyncIterable<Buffer>) pieces.push(piece)
  return Buffer.concat(pieces)
}

/** What undoes the compression of a file, by its first bytes; undefined when there is none. */
export function decompressorFor(start: Uint8Array): ReturnType<typeof createGunzip> | undefined {
  const magic = Buffer.from(start).toString('hex')
  if (magic.startsWith('1f8b')) return createGunzip()
  if (magic.startsWith('28b52ffd')) return createZstdDecompress()
  return undefined
}

async function decompressorOf(path: string): Promise<ReturnType<typeof createGunzip> | undefined> {
  const file = await open(path)
  try {
    const start = Buffer.alloc(4)
    await file.read(start, 0, 4, 0)
    return decompressorFor(start)
  } finally {
    await file.close()
  }
}

interface TarEntry extends Entry {
  offset: number
  /** Name of the entry that this one is another name of. */
  target?: string
}

class TarEntries implements Entries {
  readonly archive: string
  readonly #file: string
  readonly #temporary: string | undefined
  readonly #byName: Map<string, TarEntry>

  private constructor(archive: string, file: string, temporary: string | undefined, byName: Map<string, TarEntry>) {
    this.archive = archive
    this.#file = file
    this.#temporary = temporary
    this.#byName = byName
  }

  static async read(
    archive: string,
    file: string,
    temporary: string | undefined,
    signal: AbortSignal,
  ): Promise<TarEntries> {
    const byName = new Map<string, TarEntry>()
    const parser = extract()
    const reading = pipeline(createReadStream(file, { highWaterMark: READ_BYTES }), parser, { signal })
    // Its error is the parser's, which the loop below throws.
    reading.catch(() => undefined)
    try {
      for await (const entry of parser) {
        if (byName.size >= MAX_ENTRIES) throw new ArchiveError(archive, `it has more than ${MAX_ENTRIES} files`)
        const { type, name, linkname } = entry.header
        // That of the header; the content follows it.
        const offset = entry.offset + HEADER_BYTES
        const hash = createHash('sha256')
        let sizeBytes = 0
        for await (const piece of entry as AsyncIterable<Buffer>) {
          hash.update(piece)
          sizeBytes += piece.length
        }
        const path = normal(name)
        if (type === 'file' || type === 'contiguous-file') {
          byName.set(path, { offset, sizeBytes, sha256: hash.digest('hex') })
        } else if ((type === 'symlink' || type === 'link') && linkname) {
          const target = type === 'link' ? normal(linkname) : normal(posix.join(posix.dirname(path), linkname))
          byName.set(path, { offset: 0, sizeBytes: 0, target })
        }
      }
      await reading
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof ArchiveError) throw error
      const { message } = error as Error
      throw new ArchiveError(archive, `it is no tar archive, or it is damaged or cut off (${message})`, {
        cause: error,
      })
    }
    if (byName.size === 0) throw new ArchiveError(archive, 'it is empty')
    return new TarEntries(archive, file, temporary, byName)
  }

  async find(name: string): Promise<Entry | undefined> {
    return await Promise.resolve(this.#resolve(name))
  }

  async open(name: string, start: number): Promise<Readable> {
    const entry = this.#resolve(name)
    if (entry === undefined) throw new ArchiveError(this.archive, `${name} is missing; the archive is incomplete`)
    if (start >= entry.sizeBytes) return Readable.from([])
    const { offset, sizeBytes } = entry
    return await Promise.resolve(
      createReadStream(this.#file, {
        start: offset + start,
        end: offset + sizeBytes - 1,
        highWaterMark: READ_BYTES,
      }),
    )
  }

  async close(): Promise<void> {
    if (this.#temporary !== undefined) await rm(this.#temporary, { recursive: true, force: true })
  }

  #resolve(name: string): TarEntry | undefined {
    let entry = this.#byName.get(name)
    for (let links = 0; entry?.target !== undefined; links++) {
      if (links >= MAX_LINKS) return undefined
      entry = this.#byName.get(entry.target)
    }
    return entry
  }
}

class FolderEntries implements Entries {
  readonly archive: string

  constructor(folder: string) {
    this.archive = folder
  }

  async find(name: string): Promise<Entry | undefined> {
    const found = await lstat(join(this.archive, name)).catch(() => undefined)
    return found?.isFile() === true ? { sizeBytes: found.size } : undefined
  }

  async open(name: string, start: number): Promise<Readable> {
    const entry = await this.find(name)
    if (entry === undefined) {
      const some = (await readdir(this.archive)).slice(0, 5).join(', ')
      throw new ArchiveError(this.archive, `${name} is missing; the folder is no complete image layout (has ${some})`)
    }
    return createReadStream(join(this.archive, name), { start, highWaterMark: READ_BYTES })
  }

  async close(): Promise<void> {}
}

function normal(name: string): string {
  return posix.normalize(name).replace(/^(?:\.?\/)+|\/+$/g, '')
}
