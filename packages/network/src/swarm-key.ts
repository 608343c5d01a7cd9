// The secret that admits a node to the cluster: key files, and the proofs that both planes build on it.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { inspect } from 'node:util'
import { loadMistakes, unusable, type ConfigMistake } from '@shoal/oci'
import { messageOf, SwarmKeyError } from './errors.ts'

const PREFIX = 'shoal-swarm-key-v1:'
const KEY_BYTES = 32
/** Bytes of a proof (HMAC-SHA256). */
export const PROOF_BYTES = 32
/** A rotation needs two; more than a handful is a mistake that every handshake would pay for. */
const MAX_KEYS = 16

/**
 * The swarm keys of a node. The first proves this node's own membership, any of them is accepted from others. So a key
 * is replaced without a gap in three rollouts: add the new key second, put it first, take the old one out.
 */
export class SwarmKeys {
  readonly #keys: Buffer[]

  /** @param keys 32 bytes each; the first is the one in use */
  constructor(keys: readonly Uint8Array[]) {
    if (keys.length === 0) throw new SwarmKeyError('A node needs at least one swarm key: make one with "shoal key new"')
    if (keys.length > MAX_KEYS) throw new SwarmKeyError(`At most ${MAX_KEYS} swarm keys may be accepted at once`)
    if (keys.some((key) => key.byteLength !== KEY_BYTES)) throw new SwarmKeyError(`A swarm key has ${KEY_BYTES} bytes`)
    this.#keys = keys.map((key) => Buffer.from(key))
  }

  /** Proof of membership over `parts`, by the key in use. */
  prove(parts: readonly (Uint8Array | string)[]): Uint8Array {
    return proofBy(this.#keys[0] as Buffer, parts)
  }

  /** Whether `proof` over `parts` was made with any of the accepted keys. */
  accepts(parts: readonly (Uint8Array | string)[], proof: Uint8Array): boolean {
    if (proof.byteLength !== PROOF_BYTES) return false
    let accepted = false
    // All keys are tried, so that the time taken does not tell which one matched.
    for (const key of this.#keys) accepted = timingSafeEqual(proofBy(key, parts), proof) || accepted
    return accepted
  }

  /** Keeps keys out of logs. */
  toJSON(): string {
    return `[${this.#keys.length} swarm keys]`
  }

  [inspect.custom](): string {
    return this.toJSON()
  }
}

/** Whether a text holds what looks like a swarm key, and so must not be shown. */
export function holdsSwarmKey(text: string): boolean {
  return text.includes(PREFIX)
}

/** Every part goes in with its length, so that no two lists of parts give the same bytes. */
function proofBy(key: Uint8Array, parts: readonly (Uint8Array | string)[]): Buffer {
  const hmac = createHmac('sha256', key)
  const length = Buffer.alloc(4)
  for (const part of parts) {
    const bytes = typeof part === 'string' ? Buffer.from(part) : part
    length.writeUInt32BE(bytes.byteLength)
    hmac.update(length)
    hmac.update(bytes)
  }
  return hmac.digest()
}

/** A new swarm key in the text form of the key file, without a newline. */
export function generateSwarmKey(): string {
  return PREFIX + randomBytes(KEY_BYTES).toString('base64')
}

/**
 * Keys in the text of a key file: one a line, empty lines and lines that begin with `#` are left out.
 *
 * @param where what the messages call the text, such as the file's path
 * @throws SwarmKeyError
 */
export function parseSwarmKeys(text: string, where: string): Uint8Array[] {
  const keys: Uint8Array[] = []
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const key = Buffer.from(line.slice(PREFIX.length), 'base64')
    if (!line.startsWith(PREFIX) || key.byteLength !== KEY_BYTES || PREFIX + key.toString('base64') !== line) {
      throw new SwarmKeyError(
        `Line ${index + 1} of ${where} is no swarm key: expected "${PREFIX}" and the base64 of ${KEY_BYTES} bytes, ` +
          'as "shoal key new" prints it',
      )
    }
    keys.push(key)
  }
  return keys
}

/**
 * Reads the key files in order; the first key of the first file is the one in use.
 *
 * A file that everybody may read, or that others may write, is refused; reading by the group is allowed, because
 * Kubernetes mounts secrets that way.
 *
 * @throws SwarmKeyError
 */
export async function loadSwarmKeys(paths: readonly string[]): Promise<SwarmKeys> {
  const keys: Uint8Array[] = []
  for (const path of paths) {
    if (holdsSwarmKey(path)) {
      throw new SwarmKeyError('A swarm key was given where a file is wanted: name the file that holds the key')
    }
    let text: string
    try {
      const { mode } = await stat(path)
      if ((mode & 0o037) !== 0) {
        throw new SwarmKeyError(
          `The swarm key file ${path} has mode ${(mode & 0o777).toString(8)}: others may read or change it. ` +
            `Run "chmod 600 ${path}".`,
        )
      }
      text = await readFile(path, 'utf8')
    } catch (error) {
      if (error instanceof SwarmKeyError) throw error
      throw new SwarmKeyError(`Cannot read the swarm key file ${path}: ${messageOf(error)}`, { cause: error })
    }
    const found = parseSwarmKeys(text, path)
    if (found.length === 0) throw new SwarmKeyError(`The swarm key file ${path} holds no key`)
    keys.push(...found)
  }
  return new SwarmKeys(keys)
}

/** What keeps each of the key files from being used. */
export async function swarmKeyMistakes(paths: readonly string[]): Promise<ConfigMistake[]> {
  const loads = paths.map((path) => () => loadSwarmKeys([path]))
  return await loadMistakes(SwarmKeyError, loads, (error, index) => ({
    key: 'swarmKeyFiles',
    below: [index],
    message: unusable(error),
  }))
}
