// Brings an image into a registry: only what is missing there, blobs before the manifests that name them, and the tag
// last of all, so that nobody ever sees half of it.
import type { Descriptor, Digest, ImageReference } from '@shoal/oci'
import { UpstreamError, type Push, type Upstream, type UploadOutcome } from '@shoal/upstream'
import PQueue from 'p-queue'
import { ImageError } from './image-error.ts'
import type { ImageSource, ImageTree, TreeManifest } from './image-source.ts'

const CONCURRENT_BLOBS = 3

export type Registry = Upstream & Push

export interface TransferDisplay {
  /** A blob that may have to be sent. */
  begin(blob: Descriptor): void
  progress(blob: Descriptor, bytes: number): void
  done(blob: Descriptor, outcome: string): void
  close(): void
}

/** What a transfer came to. */
export interface TransferSum {
  blobs: Record<UploadOutcome, number>
  bytes: Record<UploadOutcome, number>
  manifestsPut: number
}

export interface PushPlan {
  source: ImageSource
  tree: ImageTree
  target: ImageReference
  /** Repository of the target's registry where a blob may be that the target has not. */
  mountFrom?: (blob: Descriptor) => string | undefined | Promise<string | undefined>
  /** Uploads in pieces of this size. */
  chunkSizeBytes?: number
}

export function emptySum(): TransferSum {
  return {
    blobs: { present: 0, mounted: 0, uploaded: 0 },
    bytes: { present: 0, mounted: 0, uploaded: 0 },
    manifestsPut: 0,
  }
}

/** @throws UpstreamError, BlobSourceError, ImageError; then nothing has changed under the tag */
export async function pushImage(
  registry: Registry,
  plan: PushPlan,
  sum: TransferSum,
  display: TransferDisplay,
  signal: AbortSignal,
): Promise<void> {
  const { source, tree, target } = plan
  const { tag, digest } = target
  const root = tree.root.descriptor
  if (digest !== undefined && digest !== root.digest) {
    throw new ImageError(`the image is ${root.digest}, so it cannot go to @${digest}; name the target by a tag`)
  }
  const missing: TreeManifest[] = []
  for (const node of tree.manifests) {
    const { digest: wanted } = node.descriptor
    if ((await digestAt(registry, target, wanted, signal)) !== wanted) missing.push(node)
  }
  const stop = new AbortController()
  const queue = new PQueue({ concurrency: CONCURRENT_BLOBS })
  const both = AbortSignal.any([signal, stop.signal])
  const blobs = blobsIn(missing)
  for (const blob of blobs.values()) display.begin(blob)
  for (const blob of blobsIn(tree.manifests).values()) if (!blobs.has(blob.digest)) count(sum, 'present', blob)
  try {
    await queue.addAll(
      [...blobs.values()].map((blob) => async () => {
        both.throwIfAborted()
        const mountFrom = await plan.mountFrom?.(blob)
        const outcome = await registry
          .uploadBlob(
            target,
            { digest: blob.digest, sizeBytes: blob.size, open: (start) => source.open(blob, start, both) },
            {
              signal: both,
              onProgress: (bytes) => display.progress(blob, bytes),
              ...(mountFrom === undefined ? {} : { mountFrom }),
              ...(plan.chunkSizeBytes === undefined ? {} : { chunkSizeBytes: plan.chunkSizeBytes }),
            },
          )
          .catch((error: unknown) => {
            // The others end with the first; its error is the one that is told.
            stop.abort(error)
            throw error
          })
        count(sum, outcome, blob)
        display.done(blob, outcome)
      }),
    )
  } finally {
    queue.clear()
    await queue.onIdle()
  }
  for (const { descriptor, bytes } of missing) {
    if (descriptor.digest === root.digest && tag !== undefined) continue
    await put(registry, target, descriptor, bytes, [], signal)
    sum.manifestsPut++
  }
  if (tag === undefined || (await digestAt(registry, target, tag, signal)) === root.digest) return
  await put(registry, target, root, tree.root.bytes, [tag], signal)
  sum.manifestsPut++
}

async function put(
  registry: Registry,
  target: ImageReference,
  { mediaType }: Descriptor,
  bytes: Uint8Array,
  tags: string[],
  signal: AbortSignal,
): Promise<void> {
  await registry.putManifest(target, { bytes, mediaType }, tags, { signal })
}

async function digestAt(
  registry: Upstream,
  target: ImageReference,
  reference: string,
  signal: AbortSignal,
): Promise<Digest | undefined> {
  try {
    return (await registry.headManifest(target, reference, { signal })).digest
  } catch (error) {
    // Some refuse even to look at what is not there yet; whether pushing is allowed, the push will tell.
    const absent = error instanceof UpstreamError && ['NOT_FOUND', 'UNAUTHORIZED', 'DENIED'].includes(error.code)
    if (absent) return undefined
    throw error
  }
}

function blobsIn(manifests: TreeManifest[]): Map<Digest, Descriptor> {
  return new Map(manifests.flatMap(({ blobs }) => blobs.map((blob) => [blob.digest, blob] as const)))
}

function count(sum: TransferSum, outcome: UploadOutcome, { size }: Descriptor): void {
  sum.blobs[outcome]++
  sum.bytes[outcome] += size
}
