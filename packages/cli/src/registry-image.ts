// An image at a registry, read so that a broken connection is taken up where it broke.
import { Readable } from 'node:stream'
import { manifestReference, parseDescriptor, type Descriptor, type Digest, type ImageReference } from '@shoal/oci'
import { UpstreamError, type Upstream } from '@shoal/upstream'
import type { ImageSource, ImageTree } from '@shoal/origin/images'

/** In a row, without a byte in between. */
const MAX_BREAKS = 4

export interface RegistryImage extends ImageSource {
  root: Descriptor
}

/** Asks what the reference is. @throws UpstreamError */
export async function openRegistryImage(
  upstream: Upstream,
  reference: ImageReference,
  signal: AbortSignal,
): Promise<RegistryImage> {
  const { registry, repository } = reference
  const { digest, mediaType, sizeBytes } = await upstream.headManifest(reference, manifestReference(reference), {
    signal,
  })
  return {
    name: `${registry}/${repository}`,
    root: { mediaType, digest, size: sizeBytes },
    manifest: async (descriptor, manifestSignal) =>
      (await upstream.getManifest(reference, descriptor.digest, { signal: manifestSignal })).bytes,
    open: async (descriptor, start, blobSignal) =>
      await Promise.resolve(
        Readable.from(readOn(upstream, reference, descriptor, start, blobSignal), {
          objectMode: false,
          highWaterMark: 256 * 1024,
        }),
      ),
  }
}

/** The referrers of an image and of its parts: signatures, bills of materials. */
export async function referrersOf(
  registry: Upstream,
  source: ImageReference,
  tree: ImageTree,
  signal: AbortSignal,
): Promise<Descriptor[]> {
  const found = new Map<Digest, Descriptor>()
  for (const { descriptor } of tree.manifests) {
    const { descriptors } = await registry.listReferrers(source, descriptor.digest, undefined, { signal })
    for (const one of descriptors) {
      const referrer = parseDescriptor(one)
      found.set(referrer.digest, referrer)
    }
  }
  return [...found.values()]
}

async function* readOn(
  upstream: Upstream,
  target: ImageReference,
  { digest, size }: Descriptor,
  start: number,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  let position = start
  for (let breaks = 0; position < size;) {
    try {
      const range = position === 0 ? undefined : { start: position }
      const answer = await upstream.openBlob(target, digest, range, { signal })
      let skip = position - answer.start
      try {
        for await (const piece of answer.body as AsyncIterable<Buffer>) {
          const fresh = piece.subarray(Math.min(skip, piece.length))
          skip -= piece.length - fresh.length
          if (fresh.length === 0) continue
          position += fresh.length
          breaks = 0
          yield fresh
        }
      } finally {
        answer.body.destroy()
      }
      // More or less than the manifest says is for the reader to notice, who counts and hashes.
      return
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof UpstreamError) || !error.isOutage || ++breaks >= MAX_BREAKS) throw error
    }
  }
}
