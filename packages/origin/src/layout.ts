// Where everything lies in the storage. Folders of a repository begin with an underscore, which no part of a name does,
// so the name of one repository may begin with that of another.
import { digestAlgorithm, digestHex, isDigest, type Digest } from '@shoal/oci'

/** Content, shared by all repositories. */
export function contentFolder(): string {
  return 'blobs'
}

export function blobPath(digest: Digest): string {
  return `${contentFolder()}/${sharded(digest)}`
}

/** Bytes that are arriving: where drivers put them. */
export function uploadsFolder(): string {
  return 'uploads'
}

export function chunkFolder(): string {
  return 'chunks'
}

/** SHA-256 of every chunk of a blob, 32 bytes each. */
export function chunkListPath(digest: Digest): string {
  return `${chunkFolder()}/${sharded(digest)}`
}

export function repositoriesFolder(): string {
  return 'repositories'
}

/** What the path of a link (to a blob or a manifest) says; undefined for other paths. */
export function linkOf(path: string): { repository: string; kind: 'blob' | 'manifest'; digest: Digest } | undefined {
  const match = /^repositories\/(.+)\/_(blob|manifest)s\/([^/]+)$/.exec(path)
  const digest = digestOfFileName(match?.[3] ?? '')
  if (!match || digest === undefined) return undefined
  return { repository: match[1] ?? '', kind: match[2] as 'blob' | 'manifest', digest }
}

/** What makes a blob visible in a repository. */
export function blobLinkPath(name: string, digest: Digest): string {
  return `${blobLinkFolder(name)}/${flat(digest)}`
}

export function blobLinkFolder(name: string): string {
  return `repositories/${name}/_blobs`
}

/** What makes a manifest visible in a repository: a {@link ManifestLink} as JSON. */
export function manifestLinkPath(name: string, digest: Digest): string {
  return `${manifestLinkFolder(name)}/${flat(digest)}`
}

export function manifestLinkFolder(name: string): string {
  return `repositories/${name}/_manifests`
}

export function tagPath(name: string, tag: string): string {
  return `${tagFolder(name)}/${tag}`
}

export function tagFolder(name: string): string {
  return `repositories/${name}/_tags`
}

/** That a manifest names `subject`: an entry of the answer of the referrers API as JSON. */
export function referrerPath(name: string, subject: Digest, referrer: Digest): string {
  return `${referrerFolder(name, subject)}/${flat(referrer)}`
}

export function referrerFolder(name: string, subject: Digest): string {
  return `repositories/${name}/_referrers/${flat(subject)}`
}

/** Who an upload belongs to, as JSON. */
export function uploadInfoPath(id: string): string {
  return `sessions/${id}`
}

/** The digest in the last part of a path of this layout; undefined for what does not belong there. */
export function digestOfFileName(fileName: string): Digest | undefined {
  const digest = fileName.replace('-', ':')
  return isDigest(digest) ? digest : undefined
}

function flat(digest: Digest): string {
  return `${digestAlgorithm(digest)}-${digestHex(digest)}`
}

function sharded(digest: Digest): string {
  const hex = digestHex(digest)
  return `${digestAlgorithm(digest)}/${hex.slice(0, 2)}/${flat(digest)}`
}
