// The DHT's name for a blob: CIDv1, raw, sha2-256.
import type { Digest } from '@shoal/oci'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import * as multihash from 'multiformats/hashes/digest'

const SHA2_256 = 0x12

/** The CID of a digest; undefined for sha512, which the DHT is not asked about. */
export function contentIdOf(digest: Digest): CID | undefined {
  const hex = /^sha256:([0-9a-f]{64})$/.exec(digest)?.[1]
  return hex === undefined ? undefined : CID.createV1(raw.code, multihash.create(SHA2_256, Buffer.from(hex, 'hex')))
}
