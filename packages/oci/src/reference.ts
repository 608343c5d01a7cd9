// Names of images as people write them. The rules are those of docker's reference package and of the OCI
// distribution specification, so that a name means here what it means to the client.
import { isIPv6 } from 'node:net'
import { isDigest, type Digest } from './digest.ts'

/** An image reference with nothing left to guess. */
export interface ImageReference {
  /** Lower-case host and optional port: `docker.io`, `registry.example.com:5000`, `[::1]:5000`. */
  registry: string
  /** `library/ubuntu` */
  repository: string
  /** At least one of `tag` and `digest` is there; with both, the digest decides. */
  tag?: string
  digest?: Digest
}

/** The registry that names without a host belong to. */
export const DEFAULT_REGISTRY = 'docker.io'
export const DEFAULT_TAG = 'latest'
/** Limit of the distribution specification and of docker for the repository, in characters. */
export const MAX_REPOSITORY_LENGTH = 255
export const MAX_TAG_LENGTH = 128

/** Other names of Docker Hub. */
const DOCKER_HUB_HOSTS = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io'])

const COMPONENT = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*'
const REPOSITORY_PATTERN = new RegExp(`^${COMPONENT}(?:/${COMPONENT})*$`)
const TAG_PATTERN = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/
const HOST_LABEL_PATTERN = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/
const PORT_PATTERN = /^[1-9][0-9]{0,4}$/
/** Registry, repository, tag and the longest digest, with what separates them. */
const MAX_REFERENCE_LENGTH = 260 + 1 + MAX_REPOSITORY_LENGTH + 1 + MAX_TAG_LENGTH + 1 + 135

/** A text is not an image reference, or a part of one is malformed. */
export class InvalidReferenceError extends Error {
  override readonly name = 'InvalidReferenceError'

  constructor(value: string, reason: string) {
    const shown = value.length > 160 ? `${value.slice(0, 160)}…` : value
    super(`invalid image reference ${JSON.stringify(shown)}: ${reason}`)
  }
}

/** Whether the text is a repository name (`<name>` in the distribution specification). */
export function isRepositoryName(value: string): boolean {
  return value.length <= MAX_REPOSITORY_LENGTH && REPOSITORY_PATTERN.test(value)
}

export function isTag(value: string): boolean {
  return TAG_PATTERN.test(value)
}

/** Whether the text is a registry host in its normal form, as {@link parseRegistry} gives it. */
export function isRegistry(value: string): boolean {
  return normalizeRegistry(value) === value
}

/**
 * A host with optional port, such as containerd's `ns` parameter has, in normal form: lower case, one name for Docker
 * Hub.
 * @throws InvalidReferenceError
 */
export function parseRegistry(value: string): string {
  const registry = normalizeRegistry(value)
  if (registry === undefined) {
    throw new InvalidReferenceError(value, 'the registry must be a host name or address with an optional port')
  }
  return registry
}

function normalizeRegistry(value: string): string | undefined {
  if (value.length === 0 || value.length > 260) return undefined
  const lower = value.toLowerCase()
  let host = lower
  let port: string | undefined
  if (lower.startsWith('[')) {
    const end = lower.indexOf(']')
    if (end === -1) return undefined
    host = lower.slice(0, end + 1)
    const rest = lower.slice(end + 1)
    if (rest !== '' && !rest.startsWith(':')) return undefined
    port = rest === '' ? undefined : rest.slice(1)
    const address = host.slice(1, -1)
    if (!/^[0-9a-f:]+$/.test(address) || !isIPv6(address)) return undefined
  } else {
    const colon = lower.indexOf(':')
    if (colon !== -1) {
      host = lower.slice(0, colon)
      port = lower.slice(colon + 1)
    }
    if (host.length > 253 || !host.split('.').every((label) => HOST_LABEL_PATTERN.test(label))) return undefined
  }
  if (port !== undefined && (!PORT_PATTERN.test(port) || Number(port) > 65535)) return undefined
  if (DOCKER_HUB_HOSTS.has(lower)) return DEFAULT_REGISTRY
  return port === undefined ? host : `${host}:${port}`
}

/** docker's rule: the first segment is a host if it has a dot, a colon or a capital, or is `localhost`. */
function isHostSegment(segment: string): boolean {
  return /[.:[]/.test(segment) || segment === 'localhost' || segment !== segment.toLowerCase()
}

/**
 * Reads `[registry/]repository[:tag][@digest]` and fills in what docker would: `ubuntu` is
 * `docker.io/library/ubuntu:latest`. No tag is filled in beside a digest.
 * @throws InvalidReferenceError
 */
export function parseReference(value: string): ImageReference {
  if (value.length === 0) throw new InvalidReferenceError(value, 'it is empty')
  if (value.length > MAX_REFERENCE_LENGTH) throw new InvalidReferenceError(value, 'it is too long')
  if (/^[0-9a-f]{64}$/.test(value)) {
    throw new InvalidReferenceError(value, 'a bare hash is not a name; write repository@sha256:<hash>')
  }

  let rest = value
  let digest: Digest | undefined
  const at = rest.indexOf('@')
  if (at !== -1) {
    const text = rest.slice(at + 1)
    if (!isDigest(text)) throw new InvalidReferenceError(value, 'what follows @ is not a sha256 or sha512 digest')
    digest = text
    rest = rest.slice(0, at)
  }

  let registry = DEFAULT_REGISTRY
  const slash = rest.indexOf('/')
  if (slash !== -1 && isHostSegment(rest.slice(0, slash))) {
    const normal = normalizeRegistry(rest.slice(0, slash))
    if (normal === undefined) {
      throw new InvalidReferenceError(value, `${JSON.stringify(rest.slice(0, slash))} is not a registry host`)
    }
    registry = normal
    rest = rest.slice(slash + 1)
  }

  let tag: string | undefined
  const colon = rest.indexOf(':')
  if (colon !== -1) {
    tag = rest.slice(colon + 1)
    if (!isTag(tag)) {
      throw new InvalidReferenceError(value, 'a tag has up to 128 of A-Z a-z 0-9 _ . - and starts with none of . -')
    }
    rest = rest.slice(0, colon)
  }

  const repository = registry === DEFAULT_REGISTRY && !rest.includes('/') ? `library/${rest}` : rest
  if (repository.length > MAX_REPOSITORY_LENGTH) {
    throw new InvalidReferenceError(value, `the repository is longer than ${MAX_REPOSITORY_LENGTH} characters`)
  }
  if (!isRepositoryName(repository)) {
    throw new InvalidReferenceError(
      value,
      rest !== rest.toLowerCase()
        ? 'the repository must be lower case'
        : 'the repository must be path segments of a-z 0-9, joined by one of . _ __ or dashes',
    )
  }

  if (digest === undefined) return { registry, repository, tag: tag ?? DEFAULT_TAG }
  return tag === undefined ? { registry, repository, digest } : { registry, repository, tag, digest }
}

/** The full form, which {@link parseReference} reads back to the same. */
export function formatReference(reference: ImageReference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`
  const { registry } = reference
  // A name without dot and port is a host for a reader only in capitals: `host/app` would be docker.io/host/app.
  const host = isHostSegment(registry) ? registry : registry.toUpperCase()
  return `${host}/${reference.repository}${tag}${digest}`
}

/** What goes into `/manifests/<reference>`: the digest if there is one, else the tag. */
export function manifestReference(reference: ImageReference): string {
  return reference.digest ?? reference.tag ?? DEFAULT_TAG
}
