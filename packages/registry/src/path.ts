// Reads the path of a /v2/ request. Repository names have any number of slashes, so the path is taken apart from the
// right, and what is left over is the name. Each part is decoded once, then held against a strict grammar: what could
// lead out of a folder or mean two things is no name.
import { isDigest, isRepositoryName, isTag, OciError, parseRegistry, type Digest } from '@shoal/oci'

/** What a path means. Parts are decoded but not yet checked. */
export type RegistryPath =
  | { kind: 'version' }
  | { kind: 'catalog' }
  | { kind: 'tags'; name: string }
  | { kind: 'manifest'; name: string; reference: string }
  | { kind: 'blob'; name: string; digest: string }
  | { kind: 'referrers'; name: string; digest: string }
  | { kind: 'chunks'; name: string; digest: string }
  | { kind: 'uploads'; name: string }
  | { kind: 'upload'; name: string; id: string }

export type RegistryPathKind = RegistryPath['kind']

/** Longer paths mean nothing in this API: host, name, and the longest digest percent-encoded. */
const MAX_PATH_LENGTH = 4096

const UPLOAD_ID_PATTERN = /^[A-Za-z0-9_-]{1,128}$/

/**
 * Finds out what a request path (as it stands in the request line, query allowed) asks for; undefined when it is
 * nothing of this API.
 * @throws OciError(NAME_INVALID) when the path is not well-formed percent encoding of UTF-8, or too long
 */
export function parseRegistryPath(url: string): RegistryPath | undefined {
  const query = url.indexOf('?')
  const path = query === -1 ? url : url.slice(0, query)
  if (path.length > MAX_PATH_LENGTH) throw new OciError('NAME_INVALID', 'the path is too long')
  if (path === '/v2/' || path === '/v2') return { kind: 'version' }
  if (!path.startsWith('/v2/')) return undefined
  if (path === '/v2/_catalog') return { kind: 'catalog' }

  const parts = path.slice(4).split('/')
  const last = decode(parts.at(-1) ?? '')
  const before = parts.at(-2)
  if (before === 'uploads' && parts.at(-3) === 'blobs') {
    if (last === '') return named(parts, 3, (name) => ({ kind: 'uploads', name }))
    return named(parts, 3, (name) => ({ kind: 'upload', name, id: last }))
  }
  if (before === 'blobs') {
    if (last === 'uploads') return named(parts, 2, (name) => ({ kind: 'uploads', name }))
    return named(parts, 2, (name) => ({ kind: 'blob', name, digest: last }))
  }
  if (before === 'manifests') return named(parts, 2, (name) => ({ kind: 'manifest', name, reference: last }))
  if (before === 'referrers') return named(parts, 2, (name) => ({ kind: 'referrers', name, digest: last }))
  if (before === 'tags' && last === 'list') return named(parts, 2, (name) => ({ kind: 'tags', name }))
  if (before === 'chunks' && parts.at(-3) === '_shoal') {
    return named(parts, 3, (name) => ({ kind: 'chunks', name, digest: last }))
  }
  return undefined
}

function named(parts: string[], tail: number, make: (name: string) => RegistryPath): RegistryPath | undefined {
  if (parts.length <= tail) return undefined
  return make(parts.slice(0, -tail).map(decode).join('/'))
}

function decode(part: string): string {
  if (!part.includes('%')) return part
  try {
    return decodeURIComponent(part)
  } catch {
    throw new OciError('NAME_INVALID', 'the path is not well-formed percent encoding')
  }
}

/**
 * Refuses what is no repository name. With `hostInName` the first segment may be a registry (`ghcr.io`,
 * `registry:5000`, `[::1]:5000`).
 * @throws OciError(NAME_INVALID)
 */
export function checkName(name: string, hostInName: boolean): string {
  if (isRepositoryName(name)) return name
  const slash = name.indexOf('/')
  if (hostInName && slash > 0 && isRepositoryName(name.slice(slash + 1)) && isHost(name.slice(0, slash))) return name
  throw new OciError(
    'NAME_INVALID',
    `${shown(name)} is no repository name: use lower-case path segments of a-z 0-9, joined by one of . _ __ or dashes, ` +
      '255 characters at most',
  )
}

function isHost(text: string): boolean {
  try {
    parseRegistry(text)
    return true
  } catch {
    return false
  }
}

/** @throws OciError(DIGEST_INVALID) */
export function checkDigest(text: string): Digest {
  if (isDigest(text)) return text
  throw new OciError('DIGEST_INVALID', `${shown(text)} is no digest: use sha256:<64 hex> or sha512:<128 hex>`)
}

/**
 * A tag or a digest. To read, what cannot be a tag is simply not there; to write, it is refused.
 * @throws OciError(DIGEST_INVALID, MANIFEST_UNKNOWN, TAG_INVALID)
 */
export function checkReference(text: string, forWriting: boolean): string {
  if (text.includes(':')) return checkDigest(text)
  if (isTag(text)) return text
  if (!forWriting) throw new OciError('MANIFEST_UNKNOWN', `no manifest: ${shown(text)} cannot be a tag`)
  return checkTag(text)
}

/** @throws OciError(TAG_INVALID) */
export function checkTag(text: string): string {
  if (isTag(text)) return text
  throw new OciError(
    'TAG_INVALID',
    `${shown(text)} is no tag: use up to 128 of A-Z a-z 0-9 _ . - and start with neither . nor -`,
  )
}

/** @throws OciError(BLOB_UPLOAD_UNKNOWN) */
export function checkUploadId(text: string): string {
  if (UPLOAD_ID_PATTERN.test(text)) return text
  throw new OciError('BLOB_UPLOAD_UNKNOWN', 'there is no such upload: start one with POST')
}

function shown(text: string): string {
  return JSON.stringify(text.length > 160 ? `${text.slice(0, 160)}…` : text)
}
