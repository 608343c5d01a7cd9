// A disk of an agent's own, so that it can be full, go read-only or be torn without harm to anybody else: an ext4 image
// on a loop device, in the folder of the run.
import { closeSync, openSync, readdirSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { mkdirSync, readSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { spawnSync } from 'node:child_process'
import { MiB } from '../support/images.ts'
import { findProgram } from '../support/requirements.ts'

function run(program: string, ...args: string[]): string {
  const done = spawnSync(findProgram(program) ?? program, args, { encoding: 'utf8', timeout: 30_000 })
  // e2fsck says with 1 that it has repaired something.
  if (done.status !== 0 && !(program === 'e2fsck' && done.status === 1)) {
    throw new Error(`${program} ${args.join(' ')}: ${done.stderr.trim() || done.error?.message || done.status}`)
  }
  return done.stdout
}

export class AgentDisk {
  /** Where it is mounted. */
  readonly folder: string
  readonly #image: string

  /** Makes and mounts it. */
  constructor(folder: string, sizeBytes: number) {
    this.folder = folder
    this.#image = `${folder}.ext4`
    mkdirSync(folder, { recursive: true })
    // What is mounted and unmounted below here reaches the processes that have mounts of their own.
    const around = dirname(folder)
    run('mount', '--bind', around, around)
    run('mount', '--make-shared', around)
    writeFileSync(this.#image, '')
    truncateSync(this.#image, sizeBytes)
    run('mkfs.ext4', '-q', '-F', '-O', '^has_journal', this.#image)
    this.#mount()
  }

  #mount(): void {
    run('mount', '-o', 'loop,errors=remount-ro', this.#image, this.folder)
  }

  /** The file system meets an error and takes no more writes, as after a failed sector. */
  fail(): void {
    const device = basename(run('findmnt', '-n', '-o', 'SOURCE', '--mountpoint', this.folder).trim())
    writeFileSync(`/sys/fs/ext4/${device}/trigger_fs_error`, '1')
  }

  /** What an administrator does about it. Nobody may be using it. */
  repair(): void {
    run('umount', this.folder)
    run('e2fsck', '-f', '-y', this.#image)
    this.#mount()
  }

  /** Leaves no room at all; the answer makes room again. */
  fill(): () => void {
    const path = join(this.folder, 'filler')
    const piece = Buffer.alloc(MiB, 1)
    const file = openSync(path, 'w')
    try {
      for (let size = piece.length; size >= 4096;) {
        try {
          writeSync(file, piece, 0, size)
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
          size >>= 1
        }
      }
    } finally {
      closeSync(file)
    }
    return () => rmSync(path, { force: true })
  }

  clear(): void {
    clearFolder(this.folder)
  }
}

export function clearFolder(folder: string): void {
  for (const name of readdirSync(folder)) {
    if (name !== 'lost+found') rmSync(join(folder, name), { recursive: true, force: true })
  }
}

/** One of the files below these folders, by chance; undefined if there is none. */
export function pickFile(
  folders: readonly string[],
  random: () => number,
  wanted: (name: string) => boolean = (name) => name !== 'LOCK',
): string | undefined {
  const files = folders.flatMap((folder) => {
    try {
      return readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name))
        .filter((path) => statSync(path).size > 0 && wanted(basename(path)))
        .sort()
    } catch {
      return []
    }
  })
  return files[Math.floor(random() * files.length)]
}

/** Cuts a file off somewhere. */
export function truncateFile(path: string, random: () => number): void {
  truncateSync(path, Math.floor(random() * statSync(path).size))
}

/** Flips some bits of a few bytes in a file. */
export function flipBytes(path: string, random: () => number): void {
  const { size } = statSync(path)
  const file = openSync(path, 'r+')
  const byte = Buffer.alloc(1)
  try {
    for (let i = 0; i < 4; i++) {
      const at = Math.floor(random() * size)
      readSync(file, byte, 0, 1, at)
      byte[0] = (byte[0] ?? 0) ^ (1 + Math.floor(random() * 255))
      writeSync(file, byte, 0, 1, at)
    }
  } finally {
    closeSync(file)
  }
}
