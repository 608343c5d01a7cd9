// Who this node is: a persistent Ed25519 key. Its peer id contains the public key, so that anybody can check a
// signature knowing nothing but the id.
import { createPrivateKey, createPublicKey, randomBytes, sign, verify, type KeyObject } from 'node:crypto'
import { link, mkdir, open, readFile, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey, PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { codeOf, IdentityError, messageOf } from './errors.ts'
import type { VerifySignature } from './network.ts'

/** The identity of this node. */
export interface Identity {
  /** libp2p peer id in its text form. */
  readonly peerId: string
  readonly privateKey: Ed25519PrivateKey
  /** Ed25519 over `bytes`, 64 bytes. */
  sign(bytes: Uint8Array): Uint8Array
}

/** Public keys of at most this many peers stay parsed. */
const CACHED_KEYS = 4096
const SIGNATURE_BYTES = 64
/** An Ed25519 id has 52 characters; what is much longer is no id and not worth parsing. */
const MAX_PEER_ID_LENGTH = 128

const publicKeys = new LRUCache<string, KeyObject>({ ...entryLimit(CACHED_KEYS) })

function identityOf(privateKey: Ed25519PrivateKey): Identity {
  const raw = Buffer.from(privateKey.raw)
  const key = createPrivateKey({
    format: 'jwk',
    key: {
      kty: 'OKP',
      crv: 'Ed25519',
      d: raw.subarray(0, 32).toString('base64url'),
      x: Buffer.from(privateKey.publicKey.raw).toString('base64url'),
    },
  })
  return {
    peerId: peerIdFromPrivateKey(privateKey).toString(),
    privateKey,
    sign: (bytes) => sign(null, bytes, key),
  }
}

/** A new identity that lives only in memory. */
export async function createIdentity(): Promise<Identity> {
  return identityOf(await generateKeyPair('Ed25519'))
}

/**
 * The identity in the file `path` (libp2p's protobuf form of a private key), made and stored with mode 0600 when there
 * is none yet. Two processes that start at once end with the same identity. A file that was torn (by a loss of power,
 * say) is moved aside as `<path>.damaged` and the node gets a new identity: it is a name, and others learn the new one.
 *
 * @throws IdentityError when the file can be read by others, or holds a whole key of another type
 */
export async function loadOrCreateIdentity(path: string, logger?: Logger): Promise<Identity> {
  const stored = await readIdentity(path)
  if (stored !== undefined && !(stored instanceof DamagedIdentity)) return stored
  if (stored !== undefined) {
    const aside = `${path}.damaged`
    logger?.warn(
      { err: stored, path, aside },
      'the identity file is damaged: it is moved aside, the node gets a new one',
    )
    await rename(path, aside).catch((error: unknown) => {
      // Another process that starts at once has moved it.
      if (codeOf(error) === 'ENOENT') return
      throw new IdentityError(`Cannot move the damaged ${path} aside: ${messageOf(error)}`, { cause: error })
    })
  }
  const created = await createIdentity()
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  await writeOnce(path, privateKeyToProtobuf(created.privateKey))
  const settled = await readIdentity(path)
  if (settled === undefined || settled instanceof DamagedIdentity) {
    throw new IdentityError(`The identity file ${path} was changed while it was being written`, { cause: settled })
  }
  return settled
}

/** What a file holds that is no whole key. */
class DamagedIdentity extends Error {
  override readonly name = 'DamagedIdentity'
}

async function readIdentity(path: string): Promise<Identity | DamagedIdentity | undefined> {
  let bytes: Buffer
  try {
    const { mode } = await stat(path)
    if ((mode & 0o077) !== 0) {
      throw new IdentityError(
        `The identity file ${path} has mode ${(mode & 0o777).toString(8)}: others may read the node's private key. ` +
          `Run "chmod 600 ${path}"; if somebody else may have read it, delete it and the node gets a new identity.`,
      )
    }
    bytes = await readFile(path)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    if (error instanceof IdentityError) throw error
    throw new IdentityError(`Cannot read the identity file ${path}: ${messageOf(error)}`, { cause: error })
  }
  let key: PrivateKey
  try {
    key = privateKeyFromProtobuf(bytes)
  } catch (error) {
    return new DamagedIdentity(`${path} holds no key: ${messageOf(error)}`, { cause: error })
  }
  if (key.type !== 'Ed25519') {
    throw new IdentityError(
      `The identity file ${path} holds a key of type ${key.type}, not Ed25519. ` +
        'Put the right one there, or delete it: the node then makes a new identity at the next start.',
    )
  }
  const identity = identityOf(key)
  // Both halves are in the file, and only together they are of use.
  const probe = randomBytes(16)
  if (verifySignature(identity.peerId, probe, identity.sign(probe))) return identity
  return new DamagedIdentity(`the private key in ${path} does not belong to its public key`)
}

/** Writes a file that is either whole or not there, and never replaces one. */
async function writeOnce(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`
  try {
    const file = await open(temporary, 'wx', 0o600)
    try {
      await file.writeFile(bytes)
      await file.sync()
    } finally {
      await file.close()
    }
    await link(temporary, path)
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') {
      throw new IdentityError(`Cannot write the identity file ${path}: ${messageOf(error)}`, { cause: error })
    }
  } finally {
    await unlink(temporary).catch(() => undefined)
  }
}

/** Signs `bytes` with the identity of this node. The caller puts a label into the bytes that says what is signed. */
export function signBytes(identity: Identity, bytes: Uint8Array): Uint8Array {
  return identity.sign(bytes)
}

/** Whether `signature` over `bytes` was made by the Ed25519 identity `peerId`. False for anything malformed. */
export const verifySignature: VerifySignature = (peerId, bytes, signature) => {
  if (signature.byteLength !== SIGNATURE_BYTES) return false
  try {
    return verify(null, bytes, publicKeyOf(peerId), signature)
  } catch {
    return false
  }
}

function publicKeyOf(peerId: string): KeyObject {
  const cached = publicKeys.get(peerId)
  if (cached !== undefined) return cached
  if (peerId.length > MAX_PEER_ID_LENGTH) throw new Error('too long for a peer id')
  const id = peerIdFromString(peerId)
  if (id.type !== 'Ed25519') throw new Error('not an Ed25519 peer id')
  // The same id in another spelling would be another peer to whoever compares texts.
  if (id.toString() !== peerId) throw new Error('not the canonical form of a peer id')
  const x = Buffer.from(id.publicKey.raw).toString('base64url')
  const key = createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x } })
  publicKeys.set(peerId, key)
  return key
}
