// What the tests of the transfer plane share.
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls'
import type { Digest } from '@shoal/oci'
import { Registry } from 'prom-client'
import { selfSignedCertificate } from '../certificate.ts'
import { createIdentity, type Identity } from '../identity.ts'
import type { NodeAddress } from '../messages.ts'
import type { ChunkAnswer, ChunkHandler, FetchOptions, TransferPlane } from '../network.ts'
import { ownHello, TLS_OPTIONS } from '../transfer-handshake.ts'
import { createTransferPlane, type TransferPlaneOptions } from '../transfer-plane.ts'
import { patience, silent, testKeys } from './planes.ts'

export const DIGEST: Digest = `sha256:${'ab'.repeat(32)}`
export const MIB = 1024 * 1024

export interface Node {
  plane: TransferPlane
  identity: Identity
  address: NodeAddress
  metrics: Registry
}

export const missing: ChunkHandler = () => ({ status: 'missing' })

/** An answer with these bytes. */
export function bytesAnswer(bytes: Buffer, done: (sent: number) => void = () => undefined): ChunkAnswer {
  return {
    status: 'ok',
    lengthBytes: bytes.byteLength,
    read: async (offset, into) => {
      bytes.copy(into, 0, offset, offset + into.byteLength)
    },
    done,
  }
}

export async function startNode(
  t: TestContext,
  handler: ChunkHandler,
  options: Partial<TransferPlaneOptions> = {},
): Promise<Node> {
  const identity = options.identity ?? (await createIdentity())
  const metrics = new Registry()
  const plane = createTransferPlane({
    identity,
    swarmKeys: testKeys,
    handler,
    logger: silent,
    host: '127.0.0.1',
    port: 0,
    metrics,
    ...options,
  })
  await plane.start()
  t.after(() => plane.stop())
  return { plane, identity, metrics, address: addressOf(identity.peerId, plane.port) }
}

export function addressOf(peerId: string, port: number): NodeAddress {
  return { peerId, multiaddrs: [], transfer: `127.0.0.1:${port}`, zone: '' }
}

export function wanted(into: Uint8Array, more: Partial<FetchOptions> = {}): FetchOptions {
  return { digest: DIGEST, index: 0, into, requestId: 'test', signal: patience(), ...more }
}

export async function metric(node: Node, name: string): Promise<number> {
  const values = (await node.metrics.getSingleMetric(name)?.get())?.values ?? []
  return values.reduce((sum, { value }) => sum + value, 0)
}

/** A TLS connection of somebody who speaks the protocol by hand. */
export async function dialRaw(t: TestContext, port: number): Promise<TLSSocket> {
  const socket = connectTls({
    ...TLS_OPTIONS,
    ALPNProtocols: [...TLS_OPTIONS.ALPNProtocols],
    host: '127.0.0.1',
    port,
    rejectUnauthorized: false,
  })
  t.after(() => socket.destroy())
  socket.on('error', () => undefined)
  await once(socket, 'secureConnect')
  return socket
}

/** A server that speaks the protocol by hand: `talk` is called with each request frame after a right handshake. */
export async function serveRaw(t: TestContext, identity: Identity, talk: (socket: TLSSocket) => void): Promise<number> {
  const server = createTlsServer({
    ...TLS_OPTIONS,
    ALPNProtocols: [...TLS_OPTIONS.ALPNProtocols],
    ...selfSignedCertificate('test'),
  })
  server.on('secureConnection', (socket) => {
    t.after(() => socket.destroy())
    socket.on('error', () => undefined)
    socket.write(ownHello(socket, 'server', { identity, swarmKeys: testKeys }))
    let isFirst = true
    socket.on('data', () => {
      // The client's hello, then its request.
      if (!isFirst) talk(socket)
      isFirst = false
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return (server.address() as AddressInfo).port
}

/** Waits for a few milliseconds, for states that no event tells of. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 2))
}
