// One bucket, or a part of it below a prefix, through the AWS SDK: its settings, and failures in the words of a registry.
import { setTimeout as delay } from 'node:timers/promises'
import {
  CopyObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  paginateListObjectsV2,
  S3Client,
  S3ServiceException,
  type _Object,
} from '@aws-sdk/client-s3'
import { fromIni } from '@aws-sdk/credential-provider-ini'
import { OciError } from '@shoal/oci'
import { UndiciHandler } from './undici-handler.ts'

export interface S3Settings {
  bucket: string
  /** Everything lies below `<prefix>/`. @default the whole bucket */
  prefix?: string | undefined
  /** `https://s3.example.com`. @default that of AWS in the region */
  endpoint?: string | undefined
  /** @default 'us-east-1' */
  region?: string | undefined
  /** `endpoint/bucket/key` instead of `bucket.endpoint/key`. @default true when there is an endpoint */
  pathStyle?: boolean | undefined
  /** File with a key in the format of `~/.aws/credentials`. @default where the AWS SDK looks: environment, files, role */
  credentialsFile?: string | undefined
  /** Which of the file's profiles. @default 'default' */
  profile?: string | undefined
}

const CONNECT_TIMEOUT_MS = 10_000
/** Until the answer begins; the SDK tries three times. */
const ANSWER_TIMEOUT_MS = 20_000
/** Some servers copy a large object, or put it together, before they answer. */
export const WHILE_COPYING = { requestTimeout: 300_000 }
/** Between two pieces of an answer. */
const PIECE_TIMEOUT_MS = 300_000
/** Slow clients hold a connection each; they must not keep small requests from being made. */
const MAX_CONNECTIONS = 2_048
/** DeleteObjects takes no more (Amazon S3 API Reference). */
const MAX_DELETES = 1_000
/** Writes into a folder that is just going away. */
const MAX_TRIES = 6

/**
 * A server that keeps objects as files (versitygw) removes the folder of the last object that is deleted, and refuses a write
 * into it in that moment with a name of its own, which the SDK does not know as one to repeat.
 */
async function whileFolderGoes<T>(write: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await write()
    } catch (error) {
      if (!(error instanceof Error) || error.name !== 'ExistingObjectIsDirectory' || tries === MAX_TRIES) throw error
      await delay(tries * 20 * Math.random())
    }
  }
}

export class Bucket {
  readonly client: S3Client
  readonly name: string
  readonly #prefix: string

  constructor(settings: S3Settings) {
    const { bucket, prefix = '', endpoint, region = 'us-east-1', credentialsFile, profile } = settings
    this.name = bucket
    this.#prefix = prefix === '' ? '' : `${prefix.replace(/^\/+|\/+$/g, '')}/`
    this.client = new S3Client({
      region,
      forcePathStyle: settings.pathStyle ?? endpoint !== undefined,
      ...(endpoint === undefined ? {} : { endpoint }),
      ...(credentialsFile === undefined
        ? {}
        : { credentials: fromIni({ filepath: credentialsFile, ...(profile === undefined ? {} : { profile }) }) }),
      // Everything stored is named by its SHA-256, so another checksum on the way is only a cost.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      requestHandler: new UndiciHandler({
        maxConnections: MAX_CONNECTIONS,
        connectTimeoutMs: CONNECT_TIMEOUT_MS,
        answerTimeoutMs: ANSWER_TIMEOUT_MS,
        pieceTimeoutMs: PIECE_TIMEOUT_MS,
      }),
    })
    this.client.middlewareStack.add((next) => (request) => whileFolderGoes(() => next(request)), {
      step: 'initialize',
      name: 'whileFolderGoes',
    })
  }

  /** What every request about one object begins with. */
  at(path: string): { Bucket: string; Key: string } {
    return { Bucket: this.name, Key: this.#prefix + path }
  }

  /** An object as the source of a copy. */
  sourceOf(path: string): string {
    return [this.name, ...(this.#prefix + path).split('/')].map(encodeURIComponent).join('/')
  }

  pathOf(key: string): string {
    return key.slice(this.#prefix.length)
  }

  /** Objects and, with a delimiter, folders below `folder`. */
  async *pages(folder: string, delimiter?: '/'): AsyncGenerator<{ objects: _Object[]; folders: string[] }> {
    const { Bucket: name, Key } = this.at(folder === '' ? '' : `${folder}/`)
    try {
      const input = { Bucket: name, Prefix: Key, ...(delimiter === undefined ? {} : { Delimiter: delimiter }) }
      for await (const page of paginateListObjectsV2({ client: this.client }, input)) {
        const folders = (page.CommonPrefixes ?? []).flatMap(({ Prefix }) => Prefix ?? [])
        yield { objects: page.Contents ?? [], folders }
      }
    } catch (error) {
      throw explained(error)
    }
  }

  /** A part of an object as a stream. @throws when there is no such object */
  async get(path: string, start?: number, end?: number) {
    const range = start === undefined ? {} : { Range: `bytes=${start}-${end}` }
    const { Body } = await attempt(this.client.send(new GetObjectCommand({ ...this.at(path), ...range })))
    if (!Body) throw new Error(`the object store sent no body for ${path}`)
    return Body
  }

  /** Up to 5 GiB (Amazon S3 API Reference, CopyObject). */
  async copy(from: string, to: string): Promise<void> {
    const input = { ...this.at(to), CopySource: this.sourceOf(from), MetadataDirective: 'REPLACE' as const }
    await attempt(this.client.send(new CopyObjectCommand(input), WHILE_COPYING))
  }

  async delete(paths: string[]): Promise<void> {
    for (let at = 0; at < paths.length; at += MAX_DELETES) {
      const Objects = paths.slice(at, at + MAX_DELETES).map((path) => ({ Key: this.at(path).Key }))
      const input = { Bucket: this.name, Delete: { Objects, Quiet: true } }
      const { Errors: [failed] = [] } = await attempt(this.client.send(new DeleteObjectsCommand(input)))
      if (failed) throw new Error(`the object store did not delete ${failed.Key}: ${failed.Code} ${failed.Message}`)
    }
  }

  close(): void {
    this.client.destroy()
  }
}

/** A request to the store; its failure is told in a way that clients and operators understand. */
export async function attempt<T>(request: Promise<T>): Promise<T> {
  try {
    return await request
  } catch (error) {
    throw explained(error)
  }
}

/** Whether an object, or a multipart upload, is not there. */
export function isMissing(error: unknown): boolean {
  return error instanceof S3ServiceException && error.$metadata.httpStatusCode === 404 && error.name !== 'NoSuchBucket'
}

export async function orUndefined<T>(request: Promise<T>): Promise<T | undefined> {
  try {
    return await request
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

function explained(error: unknown): unknown {
  if (error instanceof OciError || isMissing(error)) return error
  if (error instanceof S3ServiceException) {
    const { httpStatusCode: status = 0 } = error.$metadata
    if (error.name === 'NoSuchBucket') return unavailable('its bucket does not exist: make it', error)
    if (status === 403) return unavailable('the object store refuses its credentials', error)
    if (status === 507 || error.name === 'QuotaExceeded') return unavailable('its bucket is full', error, 507)
    if (status < 500 && status !== 429 && status !== 0) return error
  }
  if (error instanceof Error && error.name === 'CredentialsProviderError') {
    return unavailable('there are no credentials for the object store', error)
  }
  return unavailable('the object store does not answer: try again later', error)
}

function unavailable(why: string, cause: unknown, status = 503): OciError {
  return new OciError('UNAVAILABLE', `the registry cannot reach what it stores; ${why}`, { status, cause })
}
