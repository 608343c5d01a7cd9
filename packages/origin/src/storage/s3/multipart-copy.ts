// Puts an object together from others without a byte passing through here: a multipart upload whose parts are copies.
// It becomes visible as a whole at the end.
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  UploadPartCopyCommand,
  type CompletedPart,
} from '@aws-sdk/client-s3'
import { attempt, orUndefined, WHILE_COPYING, type Bucket } from './bucket.ts'

/** Limits of a multipart upload (Amazon S3 User Guide, "Amazon S3 multipart upload limits"). */
export const MAX_PARTS = 10_000
const MAX_PART_BYTES = 5 * 2 ** 30

const COPIES_AT_ONCE = 8

interface Part {
  number: number
  path: string
  range: string | undefined
}

export class MultipartCopy {
  readonly #bucket: Bucket
  readonly #path: string
  readonly #uploadId: string

  private constructor(bucket: Bucket, path: string, uploadId: string) {
    this.#bucket = bucket
    this.#path = path
    this.#uploadId = uploadId
  }

  static async begin(bucket: Bucket, path: string): Promise<MultipartCopy> {
    const { UploadId } = await attempt(bucket.client.send(new CreateMultipartUploadCommand(bucket.at(path))))
    if (UploadId === undefined) throw new Error('the object store began no multipart upload')
    return new MultipartCopy(bucket, path, UploadId)
  }

  /** One that was begun before, by what `toBytes` gave. */
  static of(bucket: Bucket, bytes: Buffer): MultipartCopy {
    const { path, uploadId } = JSON.parse(bytes.toString()) as { path: string; uploadId: string }
    return new MultipartCopy(bucket, path, uploadId)
  }

  toBytes(): Buffer {
    return Buffer.from(JSON.stringify({ path: this.#path, uploadId: this.#uploadId }))
  }

  /** Copies the sources one after another; nothing is left when that fails. @throws also when a source is gone */
  async complete(sources: { path: string; sizeBytes: number }[]): Promise<void> {
    try {
      const parts = sources.flatMap(splitLarge).map((part, at) => ({ ...part, number: at + 1 }))
      const copied: CompletedPart[] = []
      for (let at = 0; at < parts.length; at += COPIES_AT_ONCE) {
        const some = parts.slice(at, at + COPIES_AT_ONCE)
        copied.push(...(await Promise.all(some.map((part) => this.#copyPart(part)))))
      }
      const input = { ...this.#request(), MultipartUpload: { Parts: copied } }
      await attempt(this.#bucket.client.send(new CompleteMultipartUploadCommand(input), WHILE_COPYING))
    } catch (error) {
      // What remains is dropped with the upload.
      await this.abort().catch(() => undefined)
      throw error
    }
  }

  /** Has no effect when it is over already. */
  async abort(): Promise<void> {
    await orUndefined(attempt(this.#bucket.client.send(new AbortMultipartUploadCommand(this.#request()))))
  }

  async #copyPart({ number, path, range }: Part): Promise<CompletedPart> {
    const input = {
      ...this.#request(),
      PartNumber: number,
      CopySource: this.#bucket.sourceOf(path),
      ...(range === undefined ? {} : { CopySourceRange: range }),
    }
    const { CopyPartResult } = await attempt(this.#bucket.client.send(new UploadPartCopyCommand(input), WHILE_COPYING))
    return { PartNumber: number, ETag: CopyPartResult?.ETag }
  }

  #request(): { Bucket: string; Key: string; UploadId: string } {
    return { ...this.#bucket.at(this.#path), UploadId: this.#uploadId }
  }
}

function splitLarge({ path, sizeBytes }: { path: string; sizeBytes: number }): Omit<Part, 'number'>[] {
  if (sizeBytes <= MAX_PART_BYTES) return [{ path, range: undefined }]
  const parts = []
  for (let at = 0; at < sizeBytes; at += MAX_PART_BYTES) {
    parts.push({ path, range: `bytes=${at}-${Math.min(at + MAX_PART_BYTES, sizeBytes) - 1}` })
  }
  return parts
}
