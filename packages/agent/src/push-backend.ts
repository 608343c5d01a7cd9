// Pushes through the agent: what a client pushes goes to the origin that the path names, in the client's own name, and
// stays in the store of this node, so that the swarm has it before anybody pulls.
import { mkdir, rm } from 'node:fs/promises'
import { digestOf, detectMediaType, isDigest, mediaTypeOf, OciError, type Digest } from '@shoal/oci'
import type { PushBackend, RequestContext, UploadPart, UploadState } from '@shoal/registry'
import { chunkLength, StoreError, type Store } from '@shoal/store'
import type { Swarm } from '@shoal/swarm'
import { BlobSourceError, UpstreamError, type OpenUpload, type Push, type RepositoryTarget } from '@shoal/upstream'
import type { Logger } from 'pino'
import type { Access } from './access.ts'
import type { ClientLogins } from './client-logins.ts'
import { toClientError } from './failures.ts'
import { targetOf, type Naming } from './names.ts'
import type { Requester } from './origin-sources.ts'
import { PushSpool } from './push-spool.ts'
import type { TagResolver } from './tag-resolver.ts'

const MAX_UPLOADS = 256
/** An upload that no request has touched for so long is given up, in milliseconds. */
const UPLOAD_IDLE_MS = 15 * 60_000

export interface PushBackendOptions {
  store: Store
  swarm: Swarm
  upstream: Push & { checkAllowed(registry: string): void }
  access: Access
  logins: ClientLogins
  tags: TagResolver
  naming: Naming
  /** For what is on its way; emptied at the start. */
  directory: string
  /** Most bytes on their way, all uploads together. */
  spoolBytes: number
  logger: Logger
}

interface Session {
  target: RepositoryTarget
  spool: PushSpool
  /** At the origin. Used once: a second try opens another. */
  upload: OpenUpload | undefined
  reservedBytes: number
  expiry: NodeJS.Timeout
}

type Ask = RequestOptionsOf & { target: RepositoryTarget }
type RequestOptionsOf = Requester & { signal: AbortSignal }

/** PushBackend of an agent. */
export class AgentPushBackend implements PushBackend {
  readonly #options: PushBackendOptions
  readonly #sessions = new Map<string, Session>()
  readonly #stop = new AbortController()
  /** Uploads that are being opened count, too. */
  #opening = 0
  #spooledBytes = 0

  private constructor(options: PushBackendOptions) {
    this.#options = options
  }

  static async create(options: PushBackendOptions): Promise<AgentPushBackend> {
    await rm(options.directory, { recursive: true, force: true })
    await mkdir(options.directory, { recursive: true, mode: 0o700 })
    return new AgentPushBackend(options)
  }

  /** Gives up what is on its way. */
  async close(): Promise<void> {
    this.#stop.abort(new Error('the agent is shutting down'))
    await Promise.all([...this.#sessions.values()].map((session) => this.#end(session)))
  }

  async startUpload(context: RequestContext, name: string): Promise<UploadState> {
    return await this.#answer(context, name, async ({ target, ...options }) => {
      if (this.#sessions.size + this.#opening >= MAX_UPLOADS) {
        throw new OciError(
          'TOOMANYREQUESTS',
          `${MAX_UPLOADS} uploads are under way through this agent: try again later`,
        )
      }
      this.#opening++
      try {
        const upload = await this.#options.upstream.openUpload(target, options)
        const session: Session = { target, upload, reservedBytes: 0, ...(await this.#openSpool(() => session)) }
        this.#sessions.set(session.spool.id, session)
        return session.spool.state
      } finally {
        this.#opening--
      }
    })
  }

  async uploadBlob(context: RequestContext, name: string, digest: Digest, part: UploadPart): Promise<void> {
    const { id } = await this.startUpload(context, name)
    try {
      await this.finishUpload(context, name, id, digest, part)
    } finally {
      // Nobody was told its id.
      const session = this.#sessions.get(id)
      if (session !== undefined) await this.#end(session)
    }
  }

  async mountBlob(context: RequestContext, name: string, digest: Digest, from: string | undefined): Promise<boolean> {
    if (from === undefined) return false
    return await this.#answer(context, name, async ({ target, ...options }) => {
      const source = targetOf(from, context.namespace, this.#options.naming)
      if (source.registry !== target.registry) return false
      const asNode = options.authorization === undefined && options.anonymous !== true
      if (asNode && !(await this.#mayRead(context, source, digest))) return false
      return await this.#options.upstream.mountBlob(target, digest, source.repository, options)
    })
  }

  async uploadState(context: RequestContext, name: string, id: string): Promise<UploadState> {
    return await this.#answer(context, name, ({ target }) => Promise.resolve(this.#session(target, id).spool.state))
  }

  async appendUpload(context: RequestContext, name: string, id: string, part: UploadPart): Promise<UploadState> {
    return await this.#answer(context, name, async ({ target }) => {
      const { spool } = this.#session(target, id)
      await spool.exclusively(() => spool.append(part))
      return spool.state
    })
  }

  async finishUpload(
    context: RequestContext,
    name: string,
    id: string,
    digest: Digest,
    part: UploadPart | undefined,
  ): Promise<void> {
    await this.#answer(context, name, async ({ target, ...options }) => {
      const session = this.#session(target, id)
      const { spool } = session
      await spool.exclusively(async () => {
        if (part !== undefined) await spool.append(part)
        const { upload } = session
        session.upload = undefined
        const source = { digest, sizeBytes: spool.sizeBytes, open: (start: number) => spool.read(start) }
        await this.#options.upstream.uploadBlob(target, source, { ...options, ...(upload && { upload }) })
        await this.#keep(digest, spool)
      })
      await this.#end(session)
    })
  }

  async cancelUpload(context: RequestContext, name: string, id: string): Promise<void> {
    await this.#answer(context, name, async ({ target, ...options }) => {
      const session = this.#session(target, id)
      await session.spool.exclusively(() => this.#end(session))
      await session.upload?.cancel(options)
    })
  }

  async putManifest(
    context: RequestContext,
    name: string,
    reference: string,
    bytes: Uint8Array,
    contentType: string | undefined,
    tags: readonly string[],
  ): Promise<{ digest: Digest; subject?: Digest }> {
    return await this.#answer(context, name, async ({ target, ...options }) => {
      const { upstream, store, swarm, tags: resolver, logger } = this.#options
      const digest = digestOf(bytes)
      if (isDigest(reference) && reference !== digest) {
        throw new OciError('DIGEST_INVALID', `the manifest has the digest ${digest}, not ${reference}`)
      }
      const mediaType = mediaTypeOf(contentType) ?? typeOf(bytes)
      const names = isDigest(reference) ? tags : [reference, ...tags]
      const put = await upstream.putManifest(target, { bytes, mediaType }, names, options)
      const pushed = { digest, mediaType, sizeBytes: bytes.length }
      for (const tag of names) await resolver.changed(target, tag, pushed)
      try {
        await swarm.adopt(digest, bytes.length, () => store.put(digest, bytes, mediaType))
      } catch (error) {
        if (!(error instanceof StoreError)) throw error
        logger.warn({ err: error, digest }, 'a pushed manifest is not kept: agents will ask the origin for it')
      }
      return put
    })
  }

  /** Whether the client itself may read a blob: what is mounted in this node's name could be read where it is mounted. */
  async #mayRead(context: RequestContext, source: RepositoryTarget, digest: Digest): Promise<boolean> {
    const { access, logins } = this.#options
    const authorization = logins.authorizationFor(source, context.authorization)
    try {
      await access.admit(source, digest, 'blob', access.readerOf(source, authorization, context.requestId))
      return true
    } catch (error) {
      if (error instanceof UpstreamError) return false
      throw error
    }
  }

  deleteManifest(): Promise<void> {
    return Promise.reject(noDeletes())
  }

  deleteBlob(): Promise<void> {
    return Promise.reject(noDeletes())
  }

  async #answer<T>(context: RequestContext, name: string, ask: (asked: Ask) => Promise<T>): Promise<T> {
    const { access, logins, naming, upstream } = this.#options
    let target: RepositoryTarget | undefined
    try {
      target = targetOf(name, context.namespace, naming)
      upstream.checkAllowed(target.registry)
      const authorization = logins.authorizationFor(target, context.authorization)
      const pusher = access.pusherOf(target, authorization, context.requestId)
      const signal = AbortSignal.any([context.signal, this.#stop.signal])
      return await ask({ ...pusher, target, signal })
    } catch (error) {
      if (context.signal.aborted) throw error
      const answer = toPushError(error)
      if (!(error instanceof OciError)) {
        context.log.info({ err: error, name, answer: answer.code }, 'a push could not be passed on')
      }
      throw target === undefined ? answer : logins.refusal(context, name, target, answer, 'pull,push')
    }
  }

  async #openSpool(session: () => Session): Promise<Pick<Session, 'spool' | 'expiry'>> {
    const { directory, spoolBytes } = this.#options
    const spool = await PushSpool.create(directory, (bytes) => {
      if (this.#spooledBytes + bytes > spoolBytes) {
        const message = `this agent passes on at most ${spoolBytes} bytes at a time: push to the registry itself`
        throw new OciError('DENIED', message)
      }
      this.#spooledBytes += bytes
      session().reservedBytes += bytes
    })
    const expire = (): void => {
      if (spool.busy) expiry.refresh()
      else
        this.#end(session()).catch((error: unknown) =>
          this.#options.logger.error({ err: error }, 'a push was not ended'),
        )
    }
    const expiry = setTimeout(expire, UPLOAD_IDLE_MS).unref()
    return { spool, expiry }
  }

  /** @throws OciError(BLOB_UPLOAD_UNKNOWN) also for one of another repository */
  #session({ registry, repository }: RepositoryTarget, id: string): Session {
    const session = this.#sessions.get(id)
    if (session?.target.registry !== registry || session.target.repository !== repository) {
      throw new OciError('BLOB_UPLOAD_UNKNOWN', 'there is no such upload, or it has expired')
    }
    session.expiry.refresh()
    return session
  }

  async #end(session: Session): Promise<void> {
    if (!this.#sessions.delete(session.spool.id)) return
    clearTimeout(session.expiry)
    this.#spooledBytes -= session.reservedBytes
    await session.spool.remove().catch((error: unknown) => {
      this.#options.logger.warn({ err: error }, 'what was left of a push could not be removed')
    })
  }

  /** The origin has the blob: from here on this node is one that has it, too. That is never worth failing the push. */
  async #keep(digest: Digest, spool: PushSpool): Promise<void> {
    const { store, swarm, logger } = this.#options
    const { sizeBytes } = spool
    const fill = async (): Promise<void> => {
      const partial = await store.openPartial(digest, sizeBytes)
      try {
        const buffer = Buffer.allocUnsafe(Math.min(partial.chunkSizeBytes, sizeBytes))
        for (let index = 0; index < partial.chunkCount; index++) {
          const chunk = buffer.subarray(0, chunkLength(sizeBytes, index))
          await spool.readAt(index * partial.chunkSizeBytes, chunk)
          await partial.writeChunk(index, chunk)
        }
        await partial.complete()
      } finally {
        await partial.close()
      }
    }
    try {
      await swarm.adopt(digest, sizeBytes, fill)
    } catch (error) {
      logger.warn({ err: error, digest }, 'a pushed blob is not kept: agents will ask the origin for it')
    }
  }
}

function toPushError(error: unknown): OciError {
  if (error instanceof BlobSourceError) return new OciError('DIGEST_INVALID', error.message, { cause: error })
  const status = error instanceof UpstreamError ? error.status : undefined
  if (error instanceof UpstreamError && error.code === 'PROTOCOL' && status !== undefined && status < 500) {
    // What the origin says to this push is the client's to read: too large, a quota, a manifest it does not take.
    return new OciError('DENIED', error.message, { status: status < 400 ? 502 : status, cause: error })
  }
  return toClientError(error, 'name')
}

/** @throws OciError(MANIFEST_INVALID) */
function typeOf(bytes: Uint8Array): string {
  try {
    return detectMediaType(bytes)
  } catch (error) {
    throw new OciError('MANIFEST_INVALID', 'the push does not say what kind of manifest it is', { cause: error })
  }
}

function noDeletes(): OciError {
  return new OciError('UNSUPPORTED', 'an agent deletes nothing: ask the registry that has the image')
}
