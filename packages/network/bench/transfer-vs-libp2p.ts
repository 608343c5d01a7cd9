// What a byte costs on the transfer plane, and what the same byte costs on a libp2p stream: CPU seconds per GB on both
// ends and MB/s, in one run, between two processes on the loopback. Both ways do the whole work of a chunk: read from
// disk, send, receive, SHA-256, write to disk.
//
//   node packages/network/bench/transfer-vs-libp2p.ts [--mib 192] [--rounds 7] [--require 3]
//
// A figure is the median of its rounds: what the first touch of fresh memory costs, or another process, comes and goes.
// With --require the exit code is 1 when the receiver's CPU seconds per GB are not that many times lower.
import { fork, type ChildProcess } from 'node:child_process'
import { createHash, randomFillSync } from 'node:crypto'
import { on, once } from 'node:events'
import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Digest } from '@shoal/oci'
import pino from 'pino'
import { createIdentity } from '../src/identity.ts'
import { SwarmKeys } from '../src/swarm-key.ts'
import { createTransferPlane } from '../src/transfer-plane.ts'
import { openChunkStream, serveOverStream, startStreamNode } from './libp2p-stream.ts'

const MIB = 1024 * 1024
const CHUNK_BYTES = 4 * MIB
/** Chunks asked for at once, as a download does. */
const PARALLEL = 4
const BLOB: Digest = `sha256:${'ab'.repeat(32)}`

type Way = 'transfer' | 'libp2p'

interface Cost {
  wallSeconds: number
  cpuSeconds: number
}

/** What the two processes tell each other, through their parent. */
type Word =
  | { word: 'serving'; peerId: string; transfer: string; multiaddrs: string[]; hashes: string[] }
  | { word: 'measure' }
  | { word: 'cost'; cost: Cost }
  | { word: 'fetch'; way: Way; from: Extract<Word, { word: 'serving' }> }

const logger = pino({ level: 'warn' })
const swarmKeys = new SwarmKeys([new Uint8Array(32).fill(1)])

/** Measures until called. */
function stopwatch(): () => Cost {
  const cpu = process.cpuUsage()
  const start = performance.now()
  return () => {
    const { user, system } = process.cpuUsage(cpu)
    return { wallSeconds: (performance.now() - start) / 1000, cpuSeconds: (user + system) / 1e6 }
  }
}

function say(word: Word): void {
  process.send?.(word)
}

async function sender(folder: string, chunks: number): Promise<void> {
  const path = join(folder, 'blob')
  const file = await open(path, 'w+')
  const hashes: string[] = []
  const chunk = Buffer.alloc(CHUNK_BYTES)
  for (let index = 0; index < chunks; index++) {
    randomFillSync(chunk)
    hashes.push(createHash('sha256').update(chunk).digest('hex'))
    await file.write(chunk, 0, CHUNK_BYTES, index * CHUNK_BYTES)
  }
  const identity = await createIdentity()
  const plane = createTransferPlane({
    identity,
    swarmKeys,
    host: '127.0.0.1',
    port: 0,
    logger,
    handler: ({ index }) => ({
      status: 'ok',
      lengthBytes: CHUNK_BYTES,
      read: async (offset, into) => {
        await file.read(into, 0, into.byteLength, index * CHUNK_BYTES + offset)
      },
      done: () => undefined,
    }),
  })
  await plane.start()
  const node = await startStreamNode(identity, swarmKeys)
  await serveOverStream(node, path, CHUNK_BYTES)
  const multiaddrs = node.getMultiaddrs().map((address) => address.toString())
  say({ word: 'serving', peerId: identity.peerId, transfer: `127.0.0.1:${plane.port}`, multiaddrs, hashes })
  let stop = stopwatch()
  for await (const [word] of on(process, 'message') as AsyncIterable<[Word]>) {
    if (word.word === 'measure') stop = stopwatch()
    if (word.word === 'cost') say({ word: 'cost', cost: stop() })
  }
}

async function receiver(folder: string): Promise<void> {
  const identity = await createIdentity()
  const plane = createTransferPlane({
    identity,
    swarmKeys,
    host: '127.0.0.1',
    port: 0,
    logger,
    handler: () => ({ status: 'missing' }),
  })
  await plane.start()
  const node = await startStreamNode(identity, swarmKeys)
  const buffers = Array.from({ length: PARALLEL }, () => Buffer.allocUnsafeSlow(CHUNK_BYTES))
  const signal = new AbortController().signal
  for await (const [word] of on(process, 'message') as AsyncIterable<[Word]>) {
    if (word.word !== 'fetch') continue
    const { way, from } = word
    const file = await open(join(folder, 'copy'), 'w')
    const peer = { peerId: from.peerId, multiaddrs: [], transfer: from.transfer, zone: '' }
    const streams = way === 'libp2p' ? await Promise.all(buffers.map(() => openChunkStream(node, from.multiaddrs))) : []
    const get = async (worker: number, index: number, into: Buffer): Promise<void> => {
      const stream = streams[worker]
      if (stream !== undefined) await stream.get(index, into)
      else await plane.fetch(peer, { digest: BLOB, index, into, requestId: 'bench', signal })
    }
    const stop = stopwatch()
    await receive(file, from.hashes, buffers, get)
    const cost = stop()
    for (const stream of streams) stream.close()
    await file.close()
    say({ word: 'cost', cost })
  }
}

/** Gets every chunk, a few at a time; checks it and writes it. */
async function receive(
  file: FileHandle,
  hashes: string[],
  buffers: Buffer[],
  get: (worker: number, index: number, into: Buffer) => Promise<void>,
): Promise<void> {
  let next = 0
  await Promise.all(
    buffers.map(async (buffer, worker) => {
      for (let index = next++; index < hashes.length; index = next++) {
        await get(worker, index, buffer)
        if (createHash('sha256').update(buffer).digest('hex') !== hashes[index])
          throw new Error(`Chunk ${index} is wrong`)
        await file.write(buffer, 0, buffer.byteLength, index * buffer.byteLength)
      }
    }),
  )
}

function median(costs: Cost[], key: keyof Cost): number {
  return costs.map((cost) => cost[key]).sort((a, b) => a - b)[costs.length >> 1] ?? NaN
}

async function hear<W extends Word['word']>(child: ChildProcess, word: W): Promise<Extract<Word, { word: W }>> {
  const heeding = new AbortController()
  const { signal } = heeding
  const [heard] = (await Promise.race([
    once(child, 'message', { signal }),
    once(child, 'exit', { signal }).then(() => Promise.reject(new Error('A process of the bench has ended'))),
  ]).finally(() => heeding.abort())) as [Word]
  if (heard.word !== word) throw new Error(`${heard.word} where ${word} was expected`)
  return heard as Extract<Word, { word: W }>
}

async function compare(): Promise<void> {
  const { values } = parseArgs({
    options: {
      mib: { type: 'string', default: '192' },
      rounds: { type: 'string', default: '7' },
      require: { type: 'string' },
    },
  })
  const chunks = Math.max(PARALLEL, Math.round((Number(values.mib) * MIB) / CHUNK_BYTES))
  const gigabytes = (chunks * CHUNK_BYTES) / 1e9
  const folder = await mkdtemp(join(tmpdir(), 'shoal-bench-'))
  const children: ChildProcess[] = []
  const start = (role: string): ChildProcess => {
    const child = fork(import.meta.filename, [role, folder, String(chunks)])
    children.push(child)
    return child
  }
  try {
    const from = start('sender')
    const serving = await hear(from, 'serving')
    const to = start('receiver')
    const results: Record<Way, { sender: Cost[]; receiver: Cost[] }> = {
      transfer: { sender: [], receiver: [] },
      libp2p: { sender: [], receiver: [] },
    }
    // One round before the ones that count: compilers and connections get warm.
    for (let round = 0; round <= Number(values.rounds); round++) {
      for (const way of ['transfer', 'libp2p'] as const) {
        from.send({ word: 'measure' } satisfies Word)
        to.send({ word: 'fetch', way, from: serving } satisfies Word)
        const receiverCost = (await hear(to, 'cost')).cost
        const asked = hear(from, 'cost')
        from.send({ word: 'cost', cost: receiverCost } satisfies Word)
        const senderCost = (await asked).cost
        if (round === 0) continue
        results[way].receiver.push(receiverCost)
        results[way].sender.push(senderCost)
      }
    }
    const row = (way: Way): { speed: number; sender: number; receiver: number } => {
      const { sender: sent, receiver: received } = results[way]
      return {
        speed: (gigabytes * 1000) / median(received, 'wallSeconds'),
        sender: median(sent, 'cpuSeconds') / gigabytes,
        receiver: median(received, 'cpuSeconds') / gigabytes,
      }
    }
    const transfer = row('transfer')
    const libp2p = row('libp2p')
    const print = (name: string, { speed, sender: a, receiver: b }: ReturnType<typeof row>, digits = 2): void => {
      console.log(
        `${name.padEnd(30)}${speed.toFixed(digits === 2 ? 0 : 1).padStart(8)}${a.toFixed(digits).padStart(18)}${b.toFixed(digits).padStart(20)}`,
      )
    }
    console.log(
      `${chunks} chunks of 4 MiB, ${PARALLEL} at a time, ${values.rounds} rounds, both ends on this machine\n`,
    )
    console.log(
      `${''.padEnd(30)}${'MB/s'.padStart(8)}${'sender CPU s/GB'.padStart(18)}${'receiver CPU s/GB'.padStart(20)}`,
    )
    print('transfer plane (TLS 1.3)', transfer)
    print('libp2p stream (Noise, Yamux)', libp2p)
    const ratio = {
      speed: transfer.speed / libp2p.speed,
      sender: libp2p.sender / transfer.sender,
      receiver: libp2p.receiver / transfer.receiver,
    }
    print('transfer plane is better by', ratio, 1)
    if (values.require !== undefined && ratio.receiver < Number(values.require)) {
      console.error(`\nThe receiver's cost is only ${ratio.receiver.toFixed(2)} times lower, not ${values.require}`)
      process.exitCode = 1
    }
  } finally {
    for (const child of children) child.kill()
    await rm(folder, { recursive: true, force: true })
  }
}

const [role, folder = '', chunks = '0'] = process.argv.slice(2)
if (role === 'sender') await sender(folder, Number(chunks))
else if (role === 'receiver') await receiver(folder)
else await compare()
