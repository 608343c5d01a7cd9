// Accounts in a file as Apache's htpasswd writes it, with bcrypt only: what other registries use. The file is read
// again when it changes, so accounts come and go without a restart.
import { createHmac, randomBytes } from 'node:crypto'
import { open, readFile, realpath, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import bcrypt from 'bcryptjs'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { KeyedLock } from '@shoal/store'
import { withFileLock, type HeldLock } from './file-lock.ts'

const BCRYPT_PATTERN = /^\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}$/
/** The separator and control characters cannot be in a name; rules give `*` and `anonymous` a meaning. */
const USER_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$/
const RESERVED = new Set(['anonymous'])
const COST = 10
/** bcrypt looks at no more than this. */
const MAX_PASSWORD_BYTES = 72
/** Successful logins that are remembered, so that not every request costs 50 ms of CPU. */
const CACHE_ENTRIES = 1_000
const CACHE_MS = 300_000
/** Salt and hash of nobody's password; what is before them says what a comparison costs. */
const NOBODYS_HASH = 'EAD3RCsbk26hwY7dW6..9ucGTaBKyVsdLUyyjXUNIT.5UiszqN2Dm'

/** A file of accounts, or a change to it, is malformed. */
export class InvalidAccountError extends Error {
  override readonly name = 'InvalidAccountError'
}

export class HtpasswdFile {
  readonly #path: string
  readonly #cacheKey = randomBytes(32)
  readonly #verified = new LRUCache<string, true>({ ...entryLimit(CACHE_ENTRIES), ttl: CACHE_MS })
  readonly #lock = new KeyedLock<'compare'>()
  #users = new Map<string, string>()
  #version = ''
  /** The one that could not be understood: it is told once. */
  #wrongVersion = ''

  readonly #log: Logger

  private constructor(path: string, logger: Logger) {
    this.#path = path
    this.#log = logger
  }

  /** @throws InvalidAccountError */
  static async open(path: string, logger: Logger): Promise<HtpasswdFile> {
    const file = new HtpasswdFile(path, logger)
    await orRefuse(path, file.#read())
    return file
  }

  /**
   * Whether this is the password of the user.
   * @param mayTry - called unless it is remembered as right, and before it is compared, when others that came first are
   *   through; its error is passed on
   */
  async verify(user: string, password: string, mayTry: () => void = () => undefined): Promise<boolean> {
    await this.#refresh()
    const hash = this.#users.get(user)
    const key = createHmac('sha256', this.#cacheKey)
      .update(JSON.stringify([user, password, hash]))
      .digest('base64')
    if (hash !== undefined && this.#verified.has(key)) return true
    mayTry()
    if (Buffer.byteLength(password) > MAX_PASSWORD_BYTES) return false
    // One at a time: a flood of logins must not take all of the CPU from those who pull.
    const matches = await this.#lock.run('compare', async () => {
      mayTry()
      return await bcrypt.compare(password, hash ?? this.#nobody())
    })
    if (!matches || hash === undefined) return false
    this.#verified.set(key, true)
    return true
  }

  /** Compared with when there is no such user, at the cost that the file's accounts have: time does not tell who exists. */
  #nobody(): string {
    const [some = `$2b$${COST}$`] = this.#users.values()
    return `${some.slice(0, '$2b$10$'.length)}${NOBODYS_HASH}`
  }

  async users(): Promise<string[]> {
    await this.#refresh()
    return [...this.#users.keys()].sort()
  }

  /** A file that has become unreadable, or was saved half way, changes nothing until it is right again. */
  async #refresh(): Promise<void> {
    try {
      await this.#read()
    } catch (error) {
      this.#log.error({ err: error, file: this.#path }, 'accounts not read again: those of before still hold')
    }
  }

  async #read(): Promise<void> {
    const { mtimeMs, size, ino } = await stat(this.#path)
    const version = `${mtimeMs}-${size}-${ino}`
    if (version === this.#version || version === this.#wrongVersion) return
    const text = await readFile(this.#path, 'utf8')
    try {
      this.#users = parseHtpasswd(text)
      this.#version = version
    } catch (error) {
      this.#wrongVersion = version
      throw error
    }
  }
}

/** What a file of accounts holds now. @throws InvalidAccountError also when it cannot be read */
export async function readAccounts(path: string): Promise<Map<string, string>> {
  return parseHtpasswd(await orRefuse(path, readFile(path, 'utf8')))
}

async function orRefuse<T>(path: string, reading: Promise<T>): Promise<T> {
  try {
    return await reading
  } catch (cause) {
    if (!(cause instanceof Error && 'code' in cause)) throw cause
    const why =
      cause.code === 'ENOENT'
        ? 'does not exist: make it with "shoal registry user add"'
        : `cannot be read: ${cause.message}`
    throw new InvalidAccountError(`${path} ${why}`, { cause })
  }
}

/** User names and their bcrypt hashes. @throws InvalidAccountError with the number of the line */
export function parseHtpasswd(text: string): Map<string, string> {
  const users = new Map<string, string>()
  for (const [at, raw] of text.split('\n').entries()) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const colon = line.indexOf(':')
    const user = line.slice(0, Math.max(colon, 0))
    const hash = line.slice(colon + 1)
    checkUser(user, `line ${at + 1}`)
    if (!BCRYPT_PATTERN.test(hash)) {
      throw new InvalidAccountError(`line ${at + 1}: the password of ${user} is not a bcrypt hash (use htpasswd -B)`)
    }
    users.set(user, hash)
  }
  return users
}

/** Adds an account, or changes its password, and tells which. @throws InvalidAccountError, FileLockError */
export async function setUser(path: string, user: string, password: string): Promise<'added' | 'changed'> {
  checkUser(user, 'user')
  const length = Buffer.byteLength(password)
  if (length === 0 || length > MAX_PASSWORD_BYTES) {
    throw new InvalidAccountError(`a password has 1 to ${MAX_PASSWORD_BYTES} bytes, this one ${length}`)
  }
  // Before the lock is taken: it costs 50 ms of CPU.
  const hash = await bcrypt.hash(password, COST)
  const before = await changeUsers(path, (users) => {
    users.set(user, hash)
    return true
  })
  return before.has(user) ? 'changed' : 'added'
}

/** False when there is no such account. @throws InvalidAccountError, FileLockError */
export async function removeUser(path: string, user: string): Promise<boolean> {
  const before = await changeUsers(path, (users) => users.delete(user))
  return before.has(user)
}

export async function listUsers(path: string): Promise<string[]> {
  return [...(await readUsers(path)).keys()].sort()
}

/**
 * Changes the accounts as they are when nobody else changes them. Gives back those of before.
 * @param change - false when there is nothing to write
 */
async function changeUsers(
  path: string,
  change: (users: Map<string, string>) => boolean,
): Promise<ReadonlyMap<string, string>> {
  // Through symbolic links: the lock is where the file is, whatever name it is called by.
  const target = (await ifThere(() => realpath(path))) ?? path
  for (;;) {
    const before = await withFileLock(target, async (lock) => {
      const found = await readUsers(target)
      const users = new Map(found)
      return !change(users) || (await writeUsers(target, users, lock)) ? found : undefined
    })
    if (before) return before
  }
}

async function readUsers(path: string): Promise<Map<string, string>> {
  const text = await ifThere(() => readFile(path, 'utf8'))
  return text === undefined ? new Map() : parseHtpasswd(text)
}

/**
 * Readers see the old file or the new one. Who may read it does not change: it may belong to the registry's user. False,
 * with nothing written, when the lock was lost.
 */
async function writeUsers(target: string, users: Map<string, string>, lock: HeldLock): Promise<boolean> {
  const before = await ifThere(() => stat(target))
  const temporary = `${target}.${randomBytes(6).toString('hex')}`
  try {
    await using file = await open(temporary, 'wx', 0o600)
    if (before && (before.uid !== process.getuid?.() || before.gid !== process.getgid?.())) {
      await file.chown(before.uid, before.gid)
    }
    if (before) await file.chmod(before.mode & 0o777)
    await file.writeFile([...users].map(([user, hash]) => `${user}:${hash}\n`).join(''))
    await file.sync()
    if (!(await lock.isHeld())) {
      await rm(temporary)
      return false
    }
    await rename(temporary, target)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await using folder = await open(dirname(target), 'r')
  await folder.sync()
  return true
}

async function ifThere<T>(look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look()
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

function checkUser(user: string, where: string): void {
  if (USER_PATTERN.test(user) && !RESERVED.has(user)) return
  throw new InvalidAccountError(
    `${where}: ${JSON.stringify(user)} is no user name: use up to 128 of A-Z a-z 0-9 . _ @ - and not "anonymous"`,
  )
}
