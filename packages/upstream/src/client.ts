// Puts the parts together: the client of registries, which agents and commands use.
import { entryLimit, isDigest, isRepositoryName, parseRegistry, type Digest } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import { openBlob, headBlob, type ByteRange } from './blobs.ts'
import { Connections } from './connections.ts'
import { Credentials } from './credentials.ts'
import { Lanes } from './lanes.ts'
import { fetchChunkList, listReferrers, listRepositories, listTags } from './listings.ts'
import { checkLogin } from './login.ts'
import { getManifest, headManifest, type Place } from './manifests.ts'
import { UpstreamMetrics } from './metrics.ts'
import { resolveLimits, SettingsBook, type Limits, type RegistrySettings, type UpstreamOptions } from './options.ts'
import type { BlobSource, ManifestToPut, Push, UploadOptions } from './push.ts'
import { mountBlob, openUpload } from './open-upload.ts'
import { ProxyRules, proxyOptionsFromEnvironment } from './proxies.ts'
import { RegistryRules } from './registry-rules.ts'
import { Sender } from './sender.ts'
import { Session } from './session.ts'
import { Tokens } from './tokens.ts'
import { findBlob, uploadBlob } from './uploads.ts'
import { deleteBlob, deleteManifest, putManifest } from './writing.ts'
import { UpstreamError, type RepositoryTarget, type RequestOptions, type Upstream } from './upstream.ts'

/**
 * Creates a client of registries.
 * @throws InvalidUpstreamOptionError when an option makes no sense or a file it names cannot be read
 */
export function createUpstream(options: UpstreamOptions = {}): Upstream & Push {
  const limits = resolveLimits(options)
  const settings = new SettingsBook(options.registries ?? {})
  const rules = new RegistryRules(options.allowRegistries ?? ['*'], options.denyRegistries ?? [])
  const proxyOptions = options.proxy === false ? {} : (options.proxy ?? proxyOptionsFromEnvironment(process.env))
  const connections = new Connections(limits, new ProxyRules(proxyOptions), options.lookup)
  const { logger } = options
  const random = options.random ?? Math.random
  const now = Date.now
  const lanes = new Lanes(limits.concurrency)
  const sender = new Sender({
    settings,
    rules,
    allowPrivateAddresses: options.allowPrivateAddresses ?? true,
    connections,
    lanes,
    limits,
    userAgent: options.userAgent ?? 'shoal/0.1',
    metrics: options.metrics && new UpstreamMetrics(options.metrics),
  })
  const credentials = new Credentials({
    dockerConfigFile: options.dockerConfigFile,
    helperTimeoutMs: options.credentialHelperTimeoutMs ?? 10_000,
    cacheMs: options.credentialCacheMs ?? 300_000,
    logger,
  })
  const tokens = new Tokens({ sender, limits, random, now, logger })
  const session = new Session({ sender, credentials, tokens, limits, random, now, logger })
  return new RegistryClient({ settings, rules, sender, session, tokens, connections, lanes, limits, random })
}

interface Parts {
  settings: SettingsBook
  rules: RegistryRules
  sender: Sender
  session: Session
  tokens: Tokens
  connections: Connections
  lanes: Lanes
  limits: Limits
  random: () => number
}

/** Registries of which it is remembered that they may be asked: rules and settings do not change. */
const REMEMBERED_REGISTRIES = 1000

class RegistryClient implements Upstream, Push {
  readonly #parts: Parts
  readonly #allowed = new LRUCache<string, true>({ ...entryLimit(REMEMBERED_REGISTRIES) })

  constructor(parts: Parts) {
    this.#parts = parts
  }

  async headManifest(target: RepositoryTarget, reference: string, options: RequestOptions) {
    return await headManifest(this.#parts.session, this.#place(target), reference, options)
  }

  async getManifest(target: RepositoryTarget, reference: string, options: RequestOptions) {
    return await getManifest(this.#parts.session, this.#place(target), reference, options)
  }

  async headBlob(target: RepositoryTarget, digest: Digest, options: RequestOptions) {
    return await headBlob(this.#parts.session, this.#place(target), checked(target, digest), options)
  }

  async openBlob(
    target: RepositoryTarget,
    digest: Digest,
    range: ByteRange | undefined,
    options: RequestOptions,
    sizeBytes?: number,
  ) {
    return await openBlob(this.#parts.session, this.#place(target), checked(target, digest), range, options, sizeBytes)
  }

  async listTags(target: RepositoryTarget, page: { limit?: number; after?: string }, options: RequestOptions) {
    return await listTags(this.#parts.session, this.#place(target), page, options)
  }

  async listReferrers(
    target: RepositoryTarget,
    digest: Digest,
    artifactType: string | undefined,
    options: RequestOptions,
  ) {
    const place = this.#place(target)
    return await listReferrers(this.#parts.session, place, checked(target, digest), artifactType, options)
  }

  async listRepositories(registry: string, options: RequestOptions) {
    return await listRepositories(this.#parts.session, this.#settings(registry), options)
  }

  async chunkList(target: RepositoryTarget, digest: Digest, options: RequestOptions) {
    return await fetchChunkList(this.#parts.session, this.#place(target), checked(target, digest), options)
  }

  async findBlob(target: RepositoryTarget, digest: Digest, options: RequestOptions) {
    return await findBlob(this.#parts.session, this.#place(target), checked(target, digest), options)
  }

  async uploadBlob(target: RepositoryTarget, source: BlobSource, options: UploadOptions) {
    checked(target, source.digest)
    const { session, limits, random } = this.#parts
    return await uploadBlob({ session, limits, random, place: this.#place(target) }, source, options)
  }

  async openUpload(target: RepositoryTarget, options: RequestOptions) {
    return await openUpload(this.#parts.session, this.#place(target), options)
  }

  async mountBlob(target: RepositoryTarget, digest: Digest, from: string, options: RequestOptions) {
    return await mountBlob(this.#parts.session, this.#place(target), checked(target, digest), from, options)
  }

  async putManifest(
    target: RepositoryTarget,
    manifest: ManifestToPut,
    tags: readonly string[],
    options: RequestOptions,
  ) {
    const { session, limits } = this.#parts
    return await putManifest(session, this.#place(target), limits, manifest, tags, options)
  }

  async deleteManifest(target: RepositoryTarget, reference: string, options: RequestOptions) {
    return await deleteManifest(this.#parts.session, this.#place(target), reference, options)
  }

  async deleteBlob(target: RepositoryTarget, digest: Digest, options: RequestOptions) {
    return await deleteBlob(this.#parts.session, this.#place(target), checked(target, digest), options)
  }

  checkAllowed(registry: string): void {
    if (this.#allowed.has(registry)) return
    this.#parts.sender.checkRegistry(this.#settings(registry))
    this.#allowed.set(registry, true)
  }

  isNamed(registry: string): boolean {
    const settings = this.#settings(registry)
    return settings.configured || this.#parts.rules.names(settings.registry)
  }

  async checkLogin(registry: string, options: RequestOptions) {
    await checkLogin(this.#parts.session, this.#settings(registry), options)
  }

  get concurrency(): number {
    return this.#parts.lanes.concurrency
  }

  set concurrency(concurrency: number) {
    this.#parts.lanes.concurrency = concurrency
  }

  async close(): Promise<void> {
    this.#parts.tokens.close()
    await this.#parts.connections.close()
  }

  #settings(registry: string): RegistrySettings {
    try {
      return this.#parts.settings.of(parseRegistry(registry))
    } catch (cause) {
      const message = `${JSON.stringify(registry.slice(0, 160))} is not the name of a registry`
      throw new UpstreamError('REFUSED_BY_POLICY', registry, message, { cause })
    }
  }

  #place({ registry, repository }: RepositoryTarget): Place {
    const settings = this.#settings(registry)
    if (!isRepositoryName(repository)) {
      const message = `${JSON.stringify(repository.slice(0, 160))} is not the name of a repository`
      throw new UpstreamError('NOT_FOUND', settings.registry, message)
    }
    return { settings, repository: settings.repositoryPrefix + repository }
  }
}

function checked({ registry }: RepositoryTarget, digest: Digest): Digest {
  if (isDigest(digest)) return digest
  throw new UpstreamError('NOT_FOUND', registry, 'what was asked for is not a digest')
}
