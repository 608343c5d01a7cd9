// What an origin lists: tags, referrers, and the chunk hashes that Shoal's own origin has.
import { digestAlgorithm, digestHex, isRepositoryName, isTag, parseBoundedJson, type Digest } from '@shoal/oci'
import { readBody, readStart } from './body.ts'
import { getManifest, type Place } from './manifests.ts'
import type { RegistrySettings } from './options.ts'
import type { RegistryRequest, Session } from './session.ts'
import { UpstreamError, type OriginChunkList, type RequestOptions } from './upstream.ts'

/** Of all pages of a list together. */
const MAX_LIST_BYTES = 16 * 1024 * 1024
const MAX_LIST_DEPTH = 32
const MAX_PAGES = 100
const MAX_TAGS = 100_000
const MAX_REFERRERS = 10_000
const MAX_REPOSITORIES = 100_000
const CATALOG_PAGE = 1000
/** Most that is asked for at once: some registries refuse more (ECR). */
const TAGS_PAGE = 1000
const HASH_BYTES = 32
/** Where the referrers API is not there, registries answer with one of these. */
const NO_REFERRERS_API = [400, 404, 405, 406, 501]

/** A page of a list, and where the next one is. */
interface Page {
  body: unknown
  next: string | undefined
}

/** What is asked for of the tags: so many, those after this one. */
interface TagPage {
  limit?: number
  after?: string
}

export async function listTags(
  session: Session,
  place: Place,
  page: TagPage,
  options: RequestOptions,
): Promise<{ tags: string[]; more: boolean }> {
  const base = listRequest(place, `${place.repository}/tags/list`, `the tags of ${place.repository}`, options)
  const query: Record<string, string> = {}
  if (page.limit !== undefined) query['n'] = String(Math.min(page.limit, TAGS_PAGE))
  if (page.after === undefined) return await collectTags(session, base, query, page, true)
  try {
    return await collectTags(session, base, { ...query, last: page.after }, page, true)
  } catch (error) {
    if (!(error instanceof UpstreamError) || error.code !== 'PROTOCOL' || error.status === undefined) throw error
    // Some registries take for `last` only what they have put into a link: then the list is read from its beginning.
    return await collectTags(session, base, { n: String(TAGS_PAGE) }, page, false)
  }
}

/** @param isAfter whether the list begins after the tag that was named; else it is read up to it */
async function collectTags(
  session: Session,
  base: RegistryRequest,
  query: Record<string, string>,
  { limit = MAX_TAGS, after }: TagPage,
  isAfter: boolean,
): Promise<{ tags: string[]; more: boolean }> {
  const most = Math.min(limit, MAX_TAGS)
  const tags: string[] = []
  const read = { bytes: 0 }
  const search = new URLSearchParams(query).toString()
  let path: string | undefined = search === '' ? base.path : `${base.path}?${search}`
  // Asked even for none, so that a repository that is not there is an error.
  for (let pages = 0; path !== undefined && pages < MAX_PAGES && (pages === 0 || tags.length < most); pages++) {
    const { body, next } = await fetchPage(session, { ...base, path }, read)
    const found: unknown = (body as { tags?: unknown } | null)?.tags ?? []
    if (!Array.isArray(found)) throw malformed(base)
    // Some registries begin anew whatever `last` says.
    const at = after === undefined ? -1 : found.indexOf(after)
    isAfter ||= at !== -1
    const rest: unknown[] = isAfter ? found.slice(at + 1) : []
    for (const tag of rest) if (typeof tag === 'string' && isTag(tag)) tags.push(tag)
    path = next
  }
  return { tags: tags.slice(0, most), more: path !== undefined || tags.length > most }
}

/** All repositories that a registry lists (`/v2/_catalog`): an optional call, which many registries refuse. */
export async function listRepositories(
  session: Session,
  settings: RegistrySettings,
  options: RequestOptions,
): Promise<string[]> {
  const what = `the repositories of ${settings.registry}`
  const base = listRequest({ settings, repository: '' }, '_catalog', what, options)
  const scope = 'registry:catalog:*'
  const found: string[] = []
  const read = { bytes: 0 }
  let path: string | undefined = `${base.path}?n=${CATALOG_PAGE}`
  for (let pages = 0; path !== undefined && pages < MAX_PAGES && found.length < MAX_REPOSITORIES; pages++) {
    const { body, next } = await fetchPage(session, { ...base, path, scope }, read)
    const names = (body as { repositories?: unknown }).repositories ?? []
    if (!Array.isArray(names)) throw malformed(base)
    for (const name of names) if (typeof name === 'string' && isRepositoryName(name)) found.push(name)
    path = next
  }
  return found.slice(0, MAX_REPOSITORIES)
}

export async function listReferrers(
  session: Session,
  place: Place,
  digest: Digest,
  artifactType: string | undefined,
  options: RequestOptions,
): Promise<{ descriptors: unknown[]; filtered: boolean }> {
  const what = `the referrers of ${place.repository}@${digest}`
  const base = listRequest(place, `${place.repository}/referrers/${digest}`, what, options)
  const query = artifactType === undefined ? '' : `?${new URLSearchParams({ artifactType })}`
  let descriptors: unknown[] = []
  const read = { bytes: 0 }
  let path: string | undefined = base.path + query
  for (let pages = 0; path !== undefined && pages < MAX_PAGES && descriptors.length < MAX_REFERRERS; pages++) {
    let page: Page
    try {
      page = await fetchPage(session, { ...base, path }, read)
    } catch (error) {
      if (pages > 0 || !(error instanceof UpstreamError) || !NO_REFERRERS_API.includes(error.status ?? 0)) throw error
      descriptors = await referrersByTag(session, place, digest, options)
      break
    }
    // Not spread into arguments, of which there can only be so many.
    descriptors = descriptors.concat(descriptorsOf(page.body))
    path = page.next
  }
  // The filter is optional for registries, and the tag scheme has none.
  const matching =
    artifactType === undefined
      ? descriptors
      : descriptors.filter((one) => (one as { artifactType?: unknown } | null)?.artifactType === artifactType)
  return { descriptors: matching.slice(0, MAX_REFERRERS), filtered: artifactType !== undefined }
}

/** Distribution specification 1.1, "Referrers Tag Schema". */
async function referrersByTag(
  session: Session,
  place: Place,
  digest: Digest,
  options: RequestOptions,
): Promise<unknown[]> {
  const tag = `${digestAlgorithm(digest)}-${digestHex(digest).slice(0, 64)}`
  try {
    const { bytes } = await getManifest(session, place, tag, options)
    return descriptorsOf(parseList(bytes))
  } catch (error) {
    if (error instanceof UpstreamError && error.code === 'NOT_FOUND') return []
    throw error
  }
}

function descriptorsOf(index: unknown): unknown[] {
  const { manifests } = (index ?? {}) as { manifests?: unknown }
  return Array.isArray(manifests) ? (manifests as unknown[]) : []
}

/** Asked only of registries that have shown to be Shoal's: others would see a path that they do not know. */
export async function fetchChunkList(
  session: Session,
  place: Place,
  digest: Digest,
  options: RequestOptions,
): Promise<OriginChunkList | undefined> {
  if (!session.isShoalOrigin(place.settings.registry)) return undefined
  const what = `the chunk list of ${place.repository}@${digest}`
  const request = listRequest(place, `${place.repository}/_shoal/chunks/${digest}`, what, options)
  return await session.ask({ ...request, accept: [200, 404] }, async (answer) => {
    if (answer.status === 404) {
      await readStart(answer.body, 0)
      return undefined
    }
    const bytes = await readBody(answer.body, MAX_LIST_BYTES, place.settings.registry, what)
    const list = parseChunkList(parseList(bytes))
    if (list === undefined) throw malformed(request)
    return list
  })
}

export function parseChunkList(value: unknown): OriginChunkList | undefined {
  const { size, chunkSize, hashes } = (value ?? {}) as Record<string, unknown>
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) return undefined
  if (typeof chunkSize !== 'number' || !Number.isSafeInteger(chunkSize) || chunkSize < 1) return undefined
  if (typeof hashes !== 'string') return undefined
  const bytes = Buffer.from(hashes, 'base64')
  if (bytes.length !== Math.ceil(size / chunkSize) * HASH_BYTES) return undefined
  return { sizeBytes: size, chunkSizeBytes: chunkSize, hashes: Uint8Array.from(bytes) }
}

function listRequest(
  { settings, repository }: Place,
  path: string,
  what: string,
  options: RequestOptions,
): RegistryRequest {
  const headers = { accept: 'application/json, application/vnd.oci.image.index.v1+json, */*' }
  return { settings, repository, path, method: 'GET', headers, lane: 'metadata', what, options, accept: [200] }
}

/** @param read what the pages had so far, which is counted on: each could be as long as a list may be */
async function fetchPage(session: Session, request: RegistryRequest, read: { bytes: number }): Promise<Page> {
  const { settings, what } = request
  const { lengthBytes, ...page } = await session.ask(request, async (answer) => {
    const bytes = await readBody(answer.body, MAX_LIST_BYTES, settings.registry, what)
    const body = parseList(bytes)
    if (typeof body !== 'object' || body === null) throw malformed(request)
    return { body, next: nextPage(answer.header('link'), request), lengthBytes: bytes.length }
  })
  read.bytes += lengthBytes
  if (read.bytes <= MAX_LIST_BYTES) return page
  const message = `${settings.registry} sent more than the ${MAX_LIST_BYTES} bytes that ${what} may have`
  throw new UpstreamError('PROTOCOL', settings.registry, message)
}

function parseList(bytes: Uint8Array): unknown {
  try {
    return parseBoundedJson(bytes, { maxBytes: MAX_LIST_BYTES, maxDepth: MAX_LIST_DEPTH })
  } catch {
    return undefined
  }
}

/** The path of `Link: <…>; rel="next"` (RFC 8288), if it leads to the same list at the same registry. */
export function nextPage(link: string | undefined, { settings, path }: RegistryRequest): string | undefined {
  const target = /<([^<>]{1,4096})>\s*;[^<]*\brel="?next"?/i.exec(link ?? '')?.[1]
  if (target === undefined) return undefined
  const here = new URL(`${settings.baseUrl.origin}${settings.baseUrl.pathname.replace(/\/+$/, '')}/v2/${path}`)
  if (!URL.canParse(target, here.href)) return undefined
  const next = new URL(target, here.href)
  // A cache that serves another registry may name that one's host or prefix; what counts is the position.
  if (next.search === '' || next.search === here.search) return undefined
  return `${path.split('?', 1)[0]}${next.search}`
}

function malformed({ settings, what }: RegistryRequest): UpstreamError {
  const message = `${settings.registry} gave something for ${what} that cannot be read`
  return new UpstreamError('PROTOCOL', settings.registry, message)
}
