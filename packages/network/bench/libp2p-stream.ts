// Chunks over libp2p streams, as well as it can be done: what the transfer plane is compared with. The helpers avoid the
// traps of libp2p's back-pressure (a one-shot `onDrain`, an iterator without a bound).
import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import type { Stream } from '@libp2p/interface'
import { byteStream } from '@libp2p/utils'
import { multiaddr } from '@multiformats/multiaddr'
import { pEvent } from 'p-event'
import type { Identity } from '../src/identity.ts'
import { createHost, type Host } from '../src/libp2p-host.ts'
import type { SwarmKeys } from '../src/swarm-key.ts'

const PROTOCOL = '/shoal/bench/1.0.0'
const BLOCK_BYTES = 256 * 1024
const MIB = 1024 * 1024

/** The node of the control plane, without a control plane on it. */
export async function startStreamNode(identity: Identity, swarmKeys: SwarmKeys): Promise<Host> {
  const { host } = await createHost({
    identity,
    membership: { swarmKeys, onFailure: () => undefined },
    listen: multiaddr('/ip4/127.0.0.1/tcp/0'),
    announce: [],
    maxConnections: 10,
    isRefused: () => false,
  })
  await host.start()
  return host
}

/** Answers each request on a stream, which is the index of a chunk in four bytes, with the chunk. */
export async function serveOverStream(host: Host, path: string, chunkBytes: number): Promise<void> {
  const answer = async (stream: Stream): Promise<void> => {
    const bytes = byteStream(stream)
    while (stream.remoteWriteStatus === 'writable') {
      const index = Buffer.from((await bytes.read({ bytes: 4 })).subarray()).readUInt32BE()
      const start = index * chunkBytes
      const end = start + chunkBytes - 1
      for await (const block of createReadStream(path, { start, end, highWaterMark: BLOCK_BYTES })) {
        if (!stream.send(block as Buffer)) await pEvent(stream, 'drain', { rejectionEvents: ['close'] })
      }
    }
    await stream.close()
  }
  await host.handle(PROTOCOL, answer, { maxInboundStreams: 256, maxOutboundStreams: 256 })
}

/** Opens a stream, over which one chunk after the other can be got: its window grows once, not for every chunk. */
export async function openChunkStream(
  host: Host,
  addresses: string[],
): Promise<{ get: (index: number, into: Buffer) => Promise<void>; close: () => void }> {
  const connection = await host.dial(addresses.map((address) => multiaddr(address)))
  const stream = await connection.newStream(PROTOCOL, { maxOutboundStreams: 256 })
  let into: Buffer = Buffer.alloc(0)
  let received = 0
  let whole = Promise.withResolvers<void>()
  const body = toReadable(stream)
  body.on('data', (bytes: Buffer) => {
    into.set(bytes, received)
    received += bytes.byteLength
    if (received === into.byteLength) whole.resolve()
  })
  body.on('error', (error) => whole.reject(error))
  return {
    get: async (index, buffer) => {
      into = buffer
      received = 0
      whole = Promise.withResolvers()
      const request = Buffer.alloc(4)
      request.writeUInt32BE(index)
      stream.send(request)
      await whole.promise
    },
    close: () => stream.abort(new Error('done')),
  }
}

function toReadable(stream: Stream): Readable {
  const readable = new Readable({
    highWaterMark: MIB,
    read() {
      if (stream.readStatus === 'paused') stream.resume()
    },
    destroy(error, callback) {
      if (error !== null && stream.status === 'open') stream.abort(error)
      callback(error)
    },
  })
  let ended = false
  const end = (): void => {
    if (ended) return
    ended = true
    readable.push(null)
  }
  stream.addEventListener('message', ({ data }) => {
    let more = true
    for (const bytes of data instanceof Uint8Array ? [data] : data) more = readable.push(bytes)
    if (!more && stream.readStatus === 'readable') stream.pause()
  })
  stream.addEventListener('end', end)
  stream.addEventListener('close', ({ error }) => {
    if (error !== undefined) readable.destroy(error)
    else if (stream.readBufferLength === 0) end()
  })
  return readable
}
