// Content digests: the names of everything Shoal stores and moves. Parsing is strict, because a digest becomes a
// file name, a DHT key and the root of trust.
import { createHash, type Hash } from 'node:crypto'

/** A content digest, `sha256:<64 hex>` or `sha512:<128 hex>`, known to be well formed. */
export type Digest = `${'sha256' | 'sha512'}:${string}`

export type DigestAlgorithm = 'sha256' | 'sha512'

/** Length of the binary digest in bytes. */
export const DIGEST_LENGTH_BYTES: Readonly<Record<DigestAlgorithm, number>> = { sha256: 32, sha512: 64 }

const DIGEST_PATTERN = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/

/** A text is not a digest that Shoal accepts. */
export class InvalidDigestError extends Error {
  override readonly name = 'InvalidDigestError'

  constructor(value: unknown) {
    const shown = typeof value === 'string' ? JSON.stringify(value.slice(0, 160)) : typeof value
    super(`invalid digest ${shown}: expected sha256:<64 lower-case hex> or sha512:<128 lower-case hex>`)
  }
}

export function isDigest(value: unknown): value is Digest {
  return typeof value === 'string' && DIGEST_PATTERN.test(value)
}

/**
 * OCI image specification 1.1, "Digests", with the registered algorithms only.
 * @throws InvalidDigestError
 */
export function parseDigest(value: unknown): Digest {
  if (!isDigest(value)) throw new InvalidDigestError(value)
  return value
}

export function digestAlgorithm(digest: Digest): DigestAlgorithm {
  return digest.startsWith('sha512:') ? 'sha512' : 'sha256'
}

/** The part after the colon. */
export function digestHex(digest: Digest): string {
  return digest.slice(7)
}

/** The binary digest: 32 or 64 bytes. */
export function digestBytes(digest: Digest): Uint8Array {
  return Uint8Array.from(Buffer.from(digestHex(digest), 'hex'))
}

/**
 * The digest with these binary bytes; the algorithm follows from the length unless it is given.
 * @throws InvalidDigestError when the length is neither 32 nor 64, or not the algorithm's
 */
export function digestFromBytes(bytes: Uint8Array, algorithm?: DigestAlgorithm): Digest {
  const found = algorithm ?? (bytes.byteLength === DIGEST_LENGTH_BYTES.sha512 ? 'sha512' : 'sha256')
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
  return parseDigest(`${found}:${hex}`)
}

/** Whether this is the digest of no bytes at all: nothing else has a size of 0, whoever says so. */
export function isDigestOfNothing(digest: Digest): boolean {
  return digest === digestOf('', digestAlgorithm(digest))
}

/** The digest of a content that is in memory. */
export function digestOf(content: Uint8Array | string, algorithm: DigestAlgorithm = 'sha256'): Digest {
  return `${algorithm}:${createHash(algorithm).update(content).digest('hex')}`
}

/** A digest that is computed while the content passes by. */
export interface DigestHash {
  readonly algorithm: DigestAlgorithm
  update(bytes: Uint8Array): DigestHash
  /** Ends the hash; it takes no more bytes after this. */
  digest(): Digest
}

/** Hashes with the algorithm given, or with that of the digest which the content is to be compared with. */
export function createDigestHash(algorithm: DigestAlgorithm | Digest = 'sha256'): DigestHash {
  const chosen: DigestAlgorithm = algorithm.startsWith('sha512') ? 'sha512' : 'sha256'
  const hash: Hash = createHash(chosen)
  const self: DigestHash = {
    algorithm: chosen,
    update(bytes) {
      hash.update(bytes)
      return self
    },
    digest: () => `${chosen}:${hash.digest('hex')}`,
  }
  return self
}
