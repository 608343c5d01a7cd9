// The backend with a guard in front: every call says what it needs before anything else happens.
import type { Digest } from '@shoal/oci'
import type { PullBackend, PushBackend, RequestContext, UploadPart } from '@shoal/registry'
import type { OriginBackend } from '../backend.ts'
import type { Accounts } from './accounts.ts'

export class GuardedBackend implements PullBackend, PushBackend {
  readonly #inner: OriginBackend
  readonly #accounts: Accounts

  constructor(inner: OriginBackend, accounts: Accounts) {
    this.#inner = inner
    this.#accounts = accounts
  }

  async checkVersion(context: RequestContext) {
    await this.#accounts.checkVersion(context)
  }

  async manifest(context: RequestContext, name: string, reference: string) {
    await this.#accounts.require(context, name, 'pull')
    return this.#inner.manifest(context, name, reference)
  }

  async blob(context: RequestContext, name: string, digest: Digest, head: boolean) {
    await this.#accounts.require(context, name, 'pull')
    return this.#inner.blob(context, name, digest, head)
  }

  async tags(context: RequestContext, name: string, page: { limit?: number; after?: string }) {
    await this.#accounts.require(context, name, 'pull')
    return this.#inner.tags(context, name, page)
  }

  async referrers(
    context: RequestContext,
    name: string,
    digest: Digest,
    artifactType: string | undefined,
    after: Digest | undefined,
  ) {
    await this.#accounts.require(context, name, 'pull')
    return this.#inner.referrers(context, name, digest, artifactType, after)
  }

  async chunkList(context: RequestContext, name: string, digest: Digest) {
    await this.#accounts.require(context, name, 'pull')
    return this.#inner.chunkList(context, name, digest)
  }

  /** Everybody sees what they may pull. */
  async catalog(context: RequestContext, page: { limit?: number; after?: string }) {
    return this.#inner.catalog(context, page, await this.#accounts.catalog(context))
  }

  async mayPush(context: RequestContext, name: string) {
    await this.#accounts.require(context, name, 'push')
  }

  async startUpload(context: RequestContext, name: string) {
    await this.#accounts.require(context, name, 'push')
    return this.#inner.startUpload(context, name)
  }

  async uploadBlob(context: RequestContext, name: string, digest: Digest, part: UploadPart) {
    await this.#accounts.require(context, name, 'push')
    await this.#inner.uploadBlob(context, name, digest, part)
  }

  /** A blob that its pusher may not pull elsewhere is as good as not there: knowing its digest is no right to it. */
  async mountBlob(context: RequestContext, name: string, digest: Digest, from: string | undefined) {
    await this.#accounts.require(context, name, 'push')
    const readable = await this.#accounts.filter(context, 'pull')
    if (from !== undefined && !readable(from)) return false
    return this.#inner.mountBlob(context, name, digest, from, readable)
  }

  async uploadState(context: RequestContext, name: string, id: string) {
    await this.#accounts.require(context, name, 'push')
    return this.#inner.uploadState(context, name, id)
  }

  async appendUpload(context: RequestContext, name: string, id: string, part: UploadPart) {
    await this.#accounts.require(context, name, 'push')
    return this.#inner.appendUpload(context, name, id, part)
  }

  async finishUpload(context: RequestContext, name: string, id: string, digest: Digest, part: UploadPart | undefined) {
    await this.#accounts.require(context, name, 'push')
    await this.#inner.finishUpload(context, name, id, digest, part)
  }

  async cancelUpload(context: RequestContext, name: string, id: string) {
    await this.#accounts.require(context, name, 'push')
    await this.#inner.cancelUpload(context, name, id)
  }

  async putManifest(
    context: RequestContext,
    name: string,
    reference: string,
    bytes: Uint8Array,
    contentType: string | undefined,
    tags: readonly string[],
  ) {
    const user = await this.#accounts.require(context, name, 'push')
    return this.#inner.putManifest(context, name, reference, bytes, contentType, tags, user)
  }

  async deleteManifest(context: RequestContext, name: string, reference: string) {
    const user = await this.#accounts.require(context, name, 'delete')
    await this.#inner.deleteManifest(context, name, reference, user)
  }

  async deleteBlob(context: RequestContext, name: string, digest: Digest) {
    await this.#accounts.require(context, name, 'delete')
    await this.#inner.deleteBlob(context, name, digest)
  }
}
