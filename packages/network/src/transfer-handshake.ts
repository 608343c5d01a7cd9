// Who is at the other end of a TLS connection of the transfer plane. Both ends send one hello with two proofs over the
// connection's exported keying material (RFC 8446, 7.5; as RFC 9266 does for channel binding): an HMAC with the swarm
// key says "a member", a signature says "this peer id". Somebody in between has a TLS session of his own with either
// end, thus other keying material, and can pass neither proof on. The role keeps a proof from being sent back.
import type { TLSSocket } from 'node:tls'
import { TransferError } from './errors.ts'
import { verifySignature, type Identity } from './identity.ts'
import type { SwarmKeys } from './swarm-key.ts'
import { encodeHello, TRANSFER_VERSION, type TransferHello } from './transfer-frames.ts'

export type Role = 'client' | 'server'

/** Options of TLS that both ends share. One cipher, the one that processors are fastest at; one round trip. */
export const TLS_OPTIONS = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ciphers: 'TLS_AES_128_GCM_SHA256',
  ecdhCurve: 'X25519:P-256',
  ALPNProtocols: ['shoal-transfer/1'],
} as const

const LABEL = 'shoal/transfer/1'
const EXPORTER_LABEL = 'EXPORTER-shoal-transfer-v1'
const KEYING_BYTES = 32

export interface Credentials {
  identity: Identity
  swarmKeys: SwarmKeys
}

/** What a hello proves: this role, on this connection, by this peer. */
function statement(socket: TLSSocket, role: Role, peerId: string): [string, Role, Buffer, string] {
  // The context is part of the derivation: an empty one is not the same as none, so both ends give one.
  return [LABEL, role, socket.exportKeyingMaterial(KEYING_BYTES, EXPORTER_LABEL, Buffer.from(LABEL)), peerId]
}

/** No part can hold a newline but the keying material, whose length is fixed: so no two statements give the same bytes. */
function signedBytes([label, role, keying, peerId]: [string, Role, Buffer, string]): Buffer {
  return Buffer.concat([Buffer.from(`${label}\n${role}\n`), keying, Buffer.from(peerId)])
}

/** The hello of this node on a connection. */
export function ownHello(socket: TLSSocket, role: Role, { identity, swarmKeys }: Credentials): Buffer {
  const said = statement(socket, role, identity.peerId)
  return encodeHello({
    version: TRANSFER_VERSION,
    peerId: identity.peerId,
    proof: swarmKeys.prove(said),
    signature: identity.sign(signedBytes(said)),
  })
}

/**
 * Checks the hello of the other side, whose role is `role`.
 *
 * @returns its peer id, proven
 * @throws TransferError with the code HANDSHAKE_FAILED
 */
export function checkHello(socket: TLSSocket, role: Role, hello: TransferHello, { swarmKeys }: Credentials): string {
  const said = statement(socket, role, hello.peerId)
  // Later versions must be able to speak this one.
  if (hello.version < TRANSFER_VERSION) throw new TransferError('HANDSHAKE_FAILED', 'The peer speaks an older protocol')
  if (!swarmKeys.accepts(said, hello.proof)) {
    throw new TransferError(
      'HANDSHAKE_FAILED',
      'The peer did not prove that it has the swarm key: no member, another key, or somebody in between',
    )
  }
  if (!verifySignature(hello.peerId, signedBytes(said), hello.signature)) {
    throw new TransferError('HANDSHAKE_FAILED', 'The peer did not prove its identity')
  }
  return hello.peerId
}
