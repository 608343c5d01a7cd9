// The mirror endpoint's backend: what container runtimes ask over /v2/, answered from store, swarm and origin.
import { isDigest, OciError, type Digest } from '@shoal/oci'
import type { BlobAnswer, BlobFile, ManifestAnswer, PullBackend, RequestContext, TagPage } from '@shoal/registry'
import type { StoredBlob } from '@shoal/store'
import type { RepositoryTarget, Upstream } from '@shoal/upstream'
import { withTimeLimit } from './aborting.ts'
import type { Access } from './access.ts'
import type { ClientLogins } from './client-logins.ts'
import type { Content } from './content.ts'
import { toClientError, type Wanted } from './failures.ts'
import type { Lookahead } from './lookahead.ts'
import { targetOf, type Naming } from './names.ts'
import type { Requester } from './origin-sources.ts'

export interface MirrorBackendOptions {
  content: Content
  access: Access
  logins: ClientLogins
  lookahead: Lookahead
  upstream: Upstream
  naming: Naming
  /** A manifest is answered within this time, be it with an error: runtimes wait for ever. */
  manifestTimeoutMs: number
}

/**
 * After this part of the time for a manifest the origin is asked for it directly, whatever the tracker says of who fetches it.
 * No sooner: of an origin that takes seconds, each node of a cluster would ask it.
 */
const SWARM_PART = 0.6
/** A blob that nobody opened after it was looked up is held for so long, in milliseconds. */
const UNUSED_MS = 10_000

/** PullBackend of an agent. */
export class MirrorBackend implements PullBackend {
  readonly #options: MirrorBackendOptions

  constructor(options: MirrorBackendOptions) {
    this.#options = options
  }

  async checkVersion(context: RequestContext): Promise<void> {
    this.#options.logins.checkVersion(context)
  }

  async manifest(context: RequestContext, name: string, reference: string, head: boolean): Promise<ManifestAnswer> {
    const { content, access, lookahead, manifestTimeoutMs } = this.#options
    const directlyAtMs = performance.now() + manifestTimeoutMs * SWARM_PART
    return await this.#answer(context, name, 'manifest', (target, reader) =>
      withTimeLimit(context.signal, manifestTimeoutMs, async (signal) => {
        const read = async (digest: Digest, fetcher: Requester) => {
          const manifest = await content.manifest(target, digest, fetcher, signal, directlyAtMs)
          access.named(target, digest, manifest.parsed)
          if (!head) lookahead.begin(target, manifest, fetcher)
          return manifest
        }
        if (isDigest(reference)) {
          return await read(reference, await access.admit(target, reference, 'manifest', reader))
        }
        const { resolved, fetcher } = await access.resolve(target, reference, reader, signal)
        content.hear(resolved.digest, resolved.sizeBytes, resolved.mediaType)
        // A stale answer is given only for what can be delivered: then it is fetched even for HEAD.
        if (head && !resolved.stale) return resolved
        const manifest = await read(resolved.digest, fetcher)
        return { ...manifest, stale: resolved.stale }
      }),
    )
  }

  async blob(context: RequestContext, name: string, digest: Digest, head: boolean): Promise<BlobAnswer> {
    return await this.#answer(context, name, 'blob', async (target, reader) => {
      const requester = await this.#options.access.admit(target, digest, 'blob', reader)
      if (head) {
        const sizeBytes = await this.#options.content.blobSize(target, digest, requester, context.signal)
        return { digest, sizeBytes, open: () => Promise.reject(new Error('HEAD has no body')) }
      }
      const blob = await this.#options.content.blob(target, digest, requester, context.signal)
      const left = this.#options.lookahead.wanted(digest)
      const release = (): void => {
        blob.release()
        left()
      }
      // Not every answer has a body (304, 416): what is never opened is let go of all the same.
      const unused = setTimeout(release, UNUSED_MS)
      context.signal.addEventListener('abort', release, { once: true })
      const answer: BlobAnswer = {
        digest,
        sizeBytes: blob.sizeBytes,
        source: blob.source,
        refusal: (error) => toClientError(error, 'blob'),
        open: (start, end) => {
          clearTimeout(unused)
          const stream = blob.open({ start, end, signal: context.signal })
          // The stream holds the blob by itself from here on.
          stream.once('close', release)
          return stream
        },
      }
      const { stored } = blob
      if (stored === undefined) return answer
      const openFile = (): Promise<BlobFile> => {
        clearTimeout(unused)
        return Promise.resolve(fileOf(stored, release))
      }
      return { ...answer, openFile }
    })
  }

  async tags(context: RequestContext, name: string, page: { limit?: number; after?: string }): Promise<TagPage> {
    const { access, upstream } = this.#options
    return await this.#answer(context, name, 'name', (target, reader) =>
      access.list(target, reader, (asking) => upstream.listTags(target, page, { ...asking, signal: context.signal })),
    )
  }

  async referrers(
    context: RequestContext,
    name: string,
    digest: Digest,
    artifactType: string | undefined,
  ): Promise<{ descriptors: unknown[]; filtered: boolean }> {
    const { access, upstream } = this.#options
    return await this.#answer(context, name, 'name', (target, reader) =>
      access.list(target, reader, (asking) =>
        upstream.listReferrers(target, digest, artifactType, { ...asking, signal: context.signal }),
      ),
    )
  }

  async #answer<T>(
    context: RequestContext,
    name: string,
    wanted: Wanted,
    ask: (target: RepositoryTarget, requester: Requester) => Promise<T>,
  ): Promise<T> {
    const { access, logins, naming, upstream } = this.#options
    let target: RepositoryTarget | undefined
    try {
      target = targetOf(name, context.namespace, naming)
      upstream.checkAllowed(target.registry)
      const authorization = logins.authorizationFor(target, context.authorization)
      return await ask(target, access.readerOf(target, authorization, context.requestId))
    } catch (error) {
      if (context.signal.aborted) throw error
      const answer = toClientError(error, wanted)
      if (!(error instanceof OciError)) {
        context.log.info({ err: error, name, wanted, answer: answer.code }, 'a request could not be answered')
      }
      throw target === undefined ? answer : logins.refusal(context, name, target, answer, 'pull')
    }
  }
}

/** The fast way to the bytes of a whole blob: the server reads into its own buffers. */
function fileOf(stored: StoredBlob, release: () => void): BlobFile {
  return {
    read: async (position, into) => {
      const part = into.subarray(0, Math.min(into.length, stored.sizeBytes - position))
      await stored.readAt(position, part)
      return part.length
    },
    close: () => Promise.resolve(release()),
  }
}
