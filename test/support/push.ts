// Puts images into any registry that speaks the OCI distribution specification, without a container runtime.
import { fetchAll } from './http.ts'
import type { Blob, Image, Index } from './images.ts'

/** The registry refused a push. */
export class PushError extends Error {
  override name = 'PushError'
}

async function pushBlob(base: string, repository: string, blob: Blob, headers: Record<string, string>): Promise<void> {
  const there = await fetchAll(`${base}/v2/${repository}/blobs/${blob.digest}`, { method: 'HEAD', headers })
  if (there.status === 200) return
  const begin = await fetchAll(`${base}/v2/${repository}/blobs/uploads/`, {
    method: 'POST',
    headers: { ...headers, 'content-length': 0 },
  })
  const location = begin.headers.location
  if (begin.status !== 202 || location === undefined) {
    throw new PushError(`starting an upload to ${base}: ${begin.status} ${begin.body}`)
  }
  const target = new URL(location, base)
  target.searchParams.set('digest', blob.digest)
  const end = await fetchAll(target.href, {
    method: 'PUT',
    headers: { ...headers, 'content-type': 'application/octet-stream', 'content-length': blob.sizeBytes },
    body: blob.bytes(),
  })
  if (end.status !== 201) throw new PushError(`pushing ${blob.digest} to ${base}: ${end.status} ${end.body}`)
}

async function pushManifest(
  base: string,
  repository: string,
  reference: string,
  { mediaType, manifest }: Image | Index,
  headers: Record<string, string>,
): Promise<void> {
  const put = await fetchAll(`${base}/v2/${repository}/manifests/${reference}`, {
    method: 'PUT',
    headers: { ...headers, 'content-type': mediaType, 'content-length': manifest.length },
    body: [manifest],
  })
  if (put.status !== 201)
    throw new PushError(`pushing ${repository}:${reference} to ${base}: ${put.status} ${put.body}`)
}

/**
 * @param base - `http://host:port`
 * @param headers - for instance `authorization`
 * @throws PushError when the registry refuses
 */
export async function pushImage(
  base: string,
  repository: string,
  tag: string,
  image: Image,
  headers: Record<string, string> = {},
): Promise<void> {
  for (const blob of image.blobs) await pushBlob(base, repository, blob, headers)
  await pushManifest(base, repository, tag, image, headers)
}

/** As pushImage, for an index with its images. */
export async function pushIndex(
  base: string,
  repository: string,
  tag: string,
  index: Index,
  headers: Record<string, string> = {},
): Promise<void> {
  for (const image of index.images) await pushImage(base, repository, image.digest, image, headers)
  await pushManifest(base, repository, tag, index, headers)
}
