// Image manifests and indexes of Docker schema 2 and OCI. What a manifest names is what an agent fetches next, so
// everything used later is checked here, and one document never means two things.
import { digestOf, isDigest, type Digest } from './digest.ts'
import { HostileJsonError, parseBoundedJson } from './json.ts'
import {
  isForeignLayerMediaType,
  isImageMediaType,
  isIndexMediaType,
  isManifestMediaType,
  isSchema1MediaType,
  mediaTypeOf,
  MEDIA_TYPE_OCI_INDEX,
  MEDIA_TYPE_OCI_MANIFEST,
} from './media-types.ts'
import type { Platform } from './platform.ts'

/** The limit that the distribution specification suggests for a manifest, in bytes. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024
/** A real manifest nests five levels deep; the rest is room for fields that we do not know. */
export const MAX_MANIFEST_DEPTH = 32
/** Most layers or children of one manifest. docker stops at 127 layers; artifacts have more. */
export const MAX_DESCRIPTORS = 8192
const MAX_ANNOTATIONS = 4096
const MAX_URLS = 64
const MEDIA_TYPE_PATTERN = /^[!-~]+\/[ -~]+$/

/** What a manifest says of a content that it names (OCI image specification, "Content Descriptors"). */
export interface Descriptor {
  mediaType: string
  digest: Digest
  /** In bytes. */
  size: number
  urls?: string[]
  annotations?: Record<string, string>
  artifactType?: string
  platform?: Platform
}

interface ManifestFields {
  schemaVersion: 2
  mediaType: string
  artifactType?: string
  subject?: Descriptor
  annotations?: Record<string, string>
}

/** One image, or another artifact: a config and layers. */
export interface ImageManifest extends ManifestFields {
  kind: 'image'
  config: Descriptor
  layers: Descriptor[]
}

/** Several manifests under one name, usually one for each platform. */
export interface ImageIndex extends ManifestFields {
  kind: 'index'
  manifests: Descriptor[]
}

export type Manifest = ImageManifest | ImageIndex

export type InvalidManifestCode =
  | 'TOO_LARGE' // over MAX_MANIFEST_BYTES
  | 'SCHEMA1' // the format that docker gave up in 2019
  | 'UNKNOWN_TYPE' // neither image nor index
  | 'MALFORMED' // anything else

/** Bytes are not a manifest that Shoal accepts. */
export class InvalidManifestError extends Error {
  override readonly name = 'InvalidManifestError'
  readonly code: InvalidManifestCode

  constructor(code: InvalidManifestCode, reason: string) {
    super(`invalid manifest: ${reason}`)
    this.code = code
  }
}

/** Content types that say nothing about what a document is. */
const GENERIC_TYPES = new Set(['application/json', 'application/octet-stream', 'text/plain', 'binary/octet-stream'])

type Fields = Record<string, unknown>

const MANIFEST_FIELDS = fieldNames(
  ...['schemaVersion', 'mediaType', 'artifactType', 'config', 'layers', 'manifests', 'subject', 'annotations'],
)
const DESCRIPTOR_FIELDS = fieldNames(
  ...['mediaType', 'digest', 'size', 'urls', 'annotations', 'artifactType', 'platform'],
)

/**
 * Reads a manifest or index. Without a content type, or with one that says nothing (`application/json`), the document's
 * `mediaType` or else its shape decides. A content type that contradicts the document is refused, as is a document with
 * the fields of the other kind or of both (CVE-2021-41190), or with a field that is written as others would read it.
 * @throws InvalidManifestError
 */
export function parseManifest(bytes: Uint8Array, contentType?: string): Manifest {
  const given = usefulType(contentType)
  if (given !== undefined && isSchema1MediaType(given)) throw schema1()
  if (bytes.byteLength > MAX_MANIFEST_BYTES) {
    throw new InvalidManifestError('TOO_LARGE', `${bytes.byteLength} bytes, more than ${MAX_MANIFEST_BYTES}`)
  }
  const fields = parseFields(bytes)
  checkSpelling(fields, MANIFEST_FIELDS, 'the document')
  if (fields['schemaVersion'] === 1) throw schema1()
  if (fields['schemaVersion'] !== 2) throw malformed('schemaVersion must be 2')

  const mediaType = documentType(fields, given)
  const isIndex = isIndexMediaType(mediaType)
  if (present(fields, 'manifests') && (present(fields, 'layers') || present(fields, 'config'))) {
    throw malformed('it has both "manifests" and "layers" or "config", so it could be read as two different images')
  }
  if (isIndex && (present(fields, 'layers') || present(fields, 'config'))) {
    throw malformed(`its media type is ${quote(mediaType)}, but it has "layers" or "config"`)
  }

  const common: ManifestFields = { schemaVersion: 2, mediaType }
  const artifactType = optionalText(fields, 'artifactType', 'artifactType')
  if (artifactType !== undefined) common.artifactType = artifactType
  if (present(fields, 'subject')) common.subject = parseDescriptorAt(fields['subject'], 'subject')
  const annotations = parseAnnotations(fields['annotations'], 'annotations')
  if (annotations !== undefined) common.annotations = annotations

  if (isIndex) return { kind: 'index', ...common, manifests: parseDescriptors(fields, 'manifests') }
  const config = parseDescriptorAt(fields['config'], 'config')
  return { kind: 'image', ...common, config, layers: parseDescriptors(fields, 'layers') }
}

/**
 * The media type to serve a manifest with, when nobody said: from its `mediaType` field or its shape.
 * @throws InvalidManifestError when it is neither image nor index
 */
export function detectMediaType(bytes: Uint8Array): string {
  return parseManifest(bytes).mediaType
}

/**
 * Reads a descriptor from parsed JSON, such as an entry of a referrers list.
 * @throws InvalidManifestError
 */
export function parseDescriptor(value: unknown): Descriptor {
  return parseDescriptorAt(value, 'descriptor')
}

/** The manifests that an index names, each digest once. An image has none. */
export function childrenOf(manifest: Manifest): Descriptor[] {
  return manifest.kind === 'index' ? unique(manifest.manifests) : []
}

/** The blobs that an image names, config first, each digest once. An index has none. */
export function blobsOf(manifest: Manifest): Descriptor[] {
  return manifest.kind === 'image' ? unique([manifest.config, ...manifest.layers]) : []
}

/**
 * Whether registries need not hold this layer: its media type is one of those that must not be passed on. The content
 * is then at `urls`.
 */
export function isForeignLayer(descriptor: Descriptor): boolean {
  return isForeignLayerMediaType(descriptor.mediaType)
}

/** The descriptor of a manifest whose bytes are at hand. */
export function describeManifest(bytes: Uint8Array, mediaType: string): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.byteLength }
}

function usefulType(contentType: string | undefined): string | undefined {
  const mediaType = mediaTypeOf(contentType)
  return mediaType === undefined || GENERIC_TYPES.has(mediaType) ? undefined : mediaType
}

function parseFields(bytes: Uint8Array): Fields {
  try {
    const limits = { maxBytes: MAX_MANIFEST_BYTES, maxDepth: MAX_MANIFEST_DEPTH }
    return asFields(parseBoundedJson(bytes, limits), 'the document')
  } catch (error) {
    if (error instanceof HostileJsonError) throw malformed(error.message)
    throw error
  }
}

/** What the document is, by its own word, by the header, or by its shape. */
function documentType(fields: Fields, given: string | undefined): string {
  const own = mediaTypeOf(optionalText(fields, 'mediaType', 'mediaType'))
  if (own !== undefined && isSchema1MediaType(own)) throw schema1()
  if (own !== undefined && given !== undefined && own !== given) {
    throw malformed(`the Content-Type ${quote(given)} contradicts its mediaType ${quote(own)}`)
  }
  const named = own ?? given
  if (named === undefined) {
    if (present(fields, 'manifests')) return MEDIA_TYPE_OCI_INDEX
    if (present(fields, 'config')) return MEDIA_TYPE_OCI_MANIFEST
    throw new InvalidManifestError('UNKNOWN_TYPE', 'it has no mediaType and looks neither like an image nor an index')
  }
  if (!isManifestMediaType(named)) {
    throw new InvalidManifestError('UNKNOWN_TYPE', `its media type ${quote(named)} is neither an image nor an index`)
  }
  if (isImageMediaType(named) && present(fields, 'manifests')) {
    throw malformed(`its media type is ${quote(named)}, but it has "manifests"`)
  }
  return named
}

function parseDescriptors(fields: Fields, name: string): Descriptor[] {
  // Go writes an empty list as null.
  const list = fields[name] ?? []
  if (!Array.isArray(list)) throw malformed(`${name} must be a list`)
  if (list.length > MAX_DESCRIPTORS) throw malformed(`${name} has ${list.length} entries, more than ${MAX_DESCRIPTORS}`)
  return list.map((entry, at) => parseDescriptorAt(entry, `${name}[${at}]`))
}

function parseDescriptorAt(value: unknown, where: string): Descriptor {
  const fields = asFields(value, where)
  checkSpelling(fields, DESCRIPTOR_FIELDS, where)
  const { mediaType, digest, size, urls } = fields
  if (!isMediaType(mediaType)) throw malformed(`${where}.mediaType is missing or not a media type`)
  if (!isDigest(digest)) throw malformed(`${where}.digest is missing or not a sha256 or sha512 digest`)
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    throw malformed(`${where}.size must be a whole number of bytes, 0 or more`)
  }
  const descriptor: Descriptor = { mediaType, digest, size: Math.abs(size) } // JSON may say -0
  if (urls !== undefined && urls !== null) {
    if (!Array.isArray(urls) || urls.length > MAX_URLS || !urls.every(isWebUrl)) {
      throw malformed(`${where}.urls must be a list of at most ${MAX_URLS} http or https URLs`)
    }
    descriptor.urls = urls
  }
  const annotations = parseAnnotations(fields['annotations'], `${where}.annotations`)
  if (annotations !== undefined) descriptor.annotations = annotations
  const artifactType = optionalText(fields, 'artifactType', `${where}.artifactType`)
  if (artifactType !== undefined) descriptor.artifactType = artifactType
  const platform = parsePlatformFields(fields['platform'], `${where}.platform`)
  if (platform !== undefined) descriptor.platform = platform
  return descriptor
}

function parsePlatformFields(value: unknown, where: string): Platform | undefined {
  if (value === undefined || value === null) return undefined
  const fields = asFields(value, where)
  const { os, architecture } = fields
  if (typeof os !== 'string' || typeof architecture !== 'string') {
    throw malformed(`${where} must have os and architecture`)
  }
  const platform: Platform = { os, architecture }
  const variant = optionalText(fields, 'variant', `${where}.variant`)
  if (variant !== undefined) platform.variant = variant
  const osVersion = optionalText(fields, 'os.version', `${where}.os.version`)
  if (osVersion !== undefined) platform.osVersion = osVersion
  const features = fields['os.features']
  if (features !== undefined && features !== null) {
    if (!Array.isArray(features) || !features.every((feature) => typeof feature === 'string')) {
      throw malformed(`${where}.os.features must be a list of texts`)
    }
    platform.osFeatures = features
  }
  return platform
}

function parseAnnotations(value: unknown, where: string): Record<string, string> | undefined {
  if (value === undefined || value === null) return undefined
  const entries = Object.entries(asFields(value, where))
  if (entries.length > MAX_ANNOTATIONS) throw malformed(`${where} has more than ${MAX_ANNOTATIONS} entries`)
  for (const [key, text] of entries) {
    if (typeof text !== 'string') throw malformed(`${where}[${quote(key)}] must be a text`)
  }
  return Object.fromEntries(entries) as Record<string, string>
}

function asFields(value: unknown, where: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed(`${where} must be an object`)
  return value as Fields
}

/** Names of fields, by what readers that do not look at capitals make of them. */
function fieldNames(...names: string[]): ReadonlyMap<string, string> {
  return new Map(names.map((name) => [folded(name), name]))
}

/** Registries in Go take "Layers" for "layers", and the last of the two counts: they would check other content than is named. */
function checkSpelling(fields: Fields, names: ReadonlyMap<string, string>, where: string): void {
  for (const key of Object.keys(fields)) {
    const name = names.get(folded(key))
    if (name !== undefined && name !== key) throw malformed(`${where} has ${quote(key)}: write ${quote(name)}`)
  }
}

/** As Go folds: the long s and the Kelvin sign are letters, too. */
function folded(name: string): string {
  return name.toUpperCase().toLowerCase()
}

function present(fields: Fields, name: string): boolean {
  return fields[name] !== undefined && fields[name] !== null
}

function optionalText(fields: Fields, name: string, where: string): string | undefined {
  const value = fields[name]
  if (value === undefined || value === null || value === '') return undefined
  if (typeof value !== 'string') throw malformed(`${where} must be a text`)
  return value
}

function isMediaType(value: unknown): value is string {
  return typeof value === 'string' && value.length <= 255 && MEDIA_TYPE_PATTERN.test(value)
}

function isWebUrl(value: unknown): value is string {
  if (typeof value !== 'string' || !URL.canParse(value)) return false
  return ['http:', 'https:'].includes(new URL(value).protocol)
}

function unique(descriptors: Descriptor[]): Descriptor[] {
  const seen = new Set<Digest>()
  return descriptors.filter(({ digest }) => !seen.has(digest) && seen.add(digest))
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 128))
}

function malformed(reason: string): InvalidManifestError {
  return new InvalidManifestError('MALFORMED', reason)
}

function schema1(): InvalidManifestError {
  return new InvalidManifestError(
    'SCHEMA1',
    'it is a Docker schema 1 manifest, which Shoal does not serve; push the image again with a current client',
  )
}
