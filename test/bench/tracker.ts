// What one tracker can carry. Its decisions are measured with as many members as a large cluster has, in a process of
// their own clock; what a message costs on a real connection is measured at a real tracker.
import { Coordinator } from '@shoal/tracker'
import { createTrackerMetrics } from '@shoal/tracker/metrics'
import {
  createControlPlane,
  createIdentity,
  decodeControlMessage,
  encodeControlMessage,
  loadSwarmKeys,
  type ControlChannel,
  type ControlMessage,
} from '@shoal/network'
import pino from 'pino'
import { Registry } from 'prom-client'
import { withDaemons, type Daemons } from './daemons.ts'
import { percentile, type SectionResult, type Target } from './figures.ts'
import { cpuSeconds } from '../support/process-cost.ts'
import { BLOB_BYTES, BLOBS, chunksAt, rolloutTraffic, type Said } from './tracker-load.ts'

const SIZES = [1000, 5000, 15_000]
const P99_LIMIT_MS = 50
/** A lease holder has its chunks after so long. */
const LEASE_MS = 100
const CONNECTIONS = 32
const MESSAGES_EACH = 2000

/** A member without a connection: what is said to it is encoded, as it would be, and leases are answered. */
class Member implements ControlChannel {
  readonly peerId: string
  readonly hello: ControlChannel['hello']
  readonly isOpen = true
  readonly closed = new Promise<void>(() => undefined)
  onMessage: (message: ControlMessage) => void = () => undefined
  readonly #heard: (message: ControlMessage, bytes: number) => void

  constructor(number: number, heard: (message: ControlMessage, bytes: number) => void) {
    this.peerId = `12D3KooW${String(number).padStart(44, 'x')}`
    this.#heard = heard
    const node = { peerId: this.peerId, multiaddrs: ['/ip4/10.0.0.1/tcp/7701'], transfer: '10.0.0.1:7702', zone: '' }
    this.hello = { type: 'hello', version: 1, agent: 'bench', node }
  }

  send(message: ControlMessage): void {
    this.#heard(message, encodeControlMessage(message).byteLength)
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

interface Load {
  messagesPerSecond: number
  cpuShare: number
  p99Ms: number
  sentBytesPerNode: number
  receivedBytesPerNode: number
}

/** Plays the traffic in real time against the tracker's decisions and takes the time from due to done. */
async function play(nodes: number, blobs: typeof BLOBS): Promise<Load> {
  const logger = pino({ level: 'silent' })
  const metrics = createTrackerMetrics(new Registry(), { swarms: () => 0, nodes: () => 0, members: () => 0 })
  const coordinator = new Coordinator({ originConcurrency: 32, leaseIdleMs: 2000, tagTtlMs: 5000, logger, metrics })
  const traffic = rolloutTraffic(nodes, blobs)
  /** What lease holders and those that look a tag up will say. */
  const replies: Said[] = []
  let sentBytes = 0
  let receivedBytes = 0
  const members = Array.from(
    { length: nodes },
    (_, index) =>
      new Member(index, (message, bytes) => {
        sentBytes += bytes
        const atMs = performance.now() - startMs
        if (message.type === 'lease-grant') {
          const { digest, leaseId, first, count } = message
          const fetched = Array.from({ length: count }, (_, chunk) => first + chunk)
          const done: ControlMessage = {
            type: 'lease-done',
            digest,
            leaseId,
            fetched,
            originBackoffMs: 0,
            failed: false,
          }
          replies.push({ atMs: atMs + LEASE_MS, node: index, bytes: encodeControlMessage(done) })
        } else if (message.type === 'tag-lookup') {
          const { requestId, reference } = message
          const found = {
            digest: blobs[0] ?? ('' as const),
            mediaType: 'application/json',
            sizeBytes: 1000,
            errorCode: '',
          }
          const result: ControlMessage = { type: 'tag-result', requestId, reference, ...found }
          replies.push({ atMs: atMs + 5, node: index, bytes: encodeControlMessage(result) })
        }
      }),
  )
  const latencies: number[] = []
  const hear = ({ atMs, node, bytes }: Said): void => {
    const member = members[node]
    const message = decodeControlMessage(bytes)
    if (member === undefined || message === undefined) throw new Error('the traffic is not well formed')
    receivedBytes += bytes.byteLength
    coordinator.receive(member, message)
    latencies.push(performance.now() - startMs - atMs)
  }
  const before = process.cpuUsage()
  const startMs = performance.now()
  let next = 0
  let handled = 0
  while (next < traffic.length) {
    const nowMs = performance.now() - startMs
    // A turn of the event loop handles what has come by then, as reading from sockets does.
    const due: Said[] = []
    for (let said = traffic[next]; said !== undefined && said.atMs <= nowMs; said = traffic[next]) {
      due.push(said)
      next++
    }
    while (replies[0] !== undefined && replies[0].atMs <= nowMs) due.push(replies.shift() as Said)
    for (const said of due) hear(said)
    handled += due.length
    if (due.length > 0) {
      await new Promise((resolve) => setImmediate(resolve))
      continue
    }
    // With nothing to do the process sleeps until something is due, so that its processor time is the tracker's.
    const dueMs = Math.min(traffic[next]?.atMs ?? Infinity, replies[0]?.atMs ?? Infinity)
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, dueMs - (performance.now() - startMs))))
  }
  const seconds = (performance.now() - startMs) / 1000
  const { user, system } = process.cpuUsage(before)
  coordinator.close()
  return {
    messagesPerSecond: handled / seconds,
    cpuShare: (user + system) / 1e6 / seconds,
    p99Ms: percentile(latencies, 0.99),
    sentBytesPerNode: sentBytes / nodes,
    receivedBytesPerNode: receivedBytes / nodes,
  }
}

/** Processor time of a real tracker for one message over a real connection, in microseconds. */
async function connectionCost(daemons: Daemons): Promise<number> {
  const tracker = await daemons.tracker()
  const swarmKeys = await loadSwarmKeys([daemons.swarmKeyFile])
  const [digest] = BLOBS
  if (digest === undefined) throw new RangeError('no blob')
  const planes = []
  try {
    const channels: ControlChannel[] = []
    for (let index = 0; index < CONNECTIONS; index++) {
      const plane = await createControlPlane({
        identity: await createIdentity(),
        swarmKeys,
        agent: 'shoal-bench/0.0.0',
        logger: pino({ level: 'silent' }),
        host: '127.0.0.1',
        port: 0,
      })
      planes.push(plane)
      await plane.start()
      channels.push(await plane.channelTo(tracker.host, AbortSignal.timeout(10_000)))
    }
    const join = { type: 'tracker-join', digest, originHost: 'registry.example.com', chunks: new Uint8Array() } as const
    for (const channel of channels) channel.send({ ...join, sizeBytes: BLOB_BYTES, complete: false, leaseCredit: 0 })
    await Promise.all(
      channels.map((channel) => roundTrip(channel, { ...join, sizeBytes: 0, complete: false, leaseCredit: 0 })),
    )
    const chunks = chunksAt(0.5)
    const progress: ControlMessage = { type: 'tracker-progress', digest, chunks, complete: false, leaseCredit: 0 }
    const before = cpuSeconds(tracker.pid)
    await Promise.all(
      channels.map(async (channel) => {
        // Each message in a packet of its own, as from as many nodes; and a wait for the tracker now and then.
        for (let sent = 0; sent < MESSAGES_EACH; sent += 10) {
          for (let index = 0; index < 10; index++) {
            channel.send(progress)
            await new Promise((resolve) => setImmediate(resolve))
          }
          await roundTrip(channel, { ...join, sizeBytes: 0, complete: false, leaseCredit: 0 })
        }
      }),
    )
    const questions = MESSAGES_EACH / 10
    return ((cpuSeconds(tracker.pid) - before) * 1e6) / (CONNECTIONS * (MESSAGES_EACH + questions))
  } finally {
    await Promise.all(planes.map((plane) => plane.stop()))
  }
}

/** Sends a question and waits for the tracker's answer: everything sent before has been handled then. */
async function roundTrip(channel: ControlChannel, question: ControlMessage): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    channel.onMessage = (message) => {
      if (message.type === 'tracker-peers' && message.peers.length === 0) resolve()
    }
    channel.closed.then(() => reject(new Error('the tracker closed the channel')), reject)
    channel.send(question)
  })
}

export async function tracker(): Promise<SectionResult> {
  const messageUs = await withDaemons((daemons) => connectionCost(daemons))
  const rows: string[][] = []
  const targets: Target[] = []
  const cases = [...SIZES.map((nodes) => ({ nodes, blobs: BLOBS, name: String(nodes) }))]
  cases.push({ nodes: 15_000, blobs: BLOBS.slice(0, 1), name: '15000, one of two trackers' })
  for (const { nodes, blobs, name } of cases) {
    const load = await play(nodes, blobs)
    const connectionShare = (load.messagesPerSecond * messageUs) / 1e6
    rows.push([
      name,
      load.messagesPerSecond.toFixed(0),
      load.p99Ms.toFixed(1),
      (load.cpuShare * 100).toFixed(0),
      (connectionShare * 100).toFixed(0),
      load.receivedBytesPerNode.toFixed(0),
      load.sentBytesPerNode.toFixed(0),
    ])
    targets.push({ what: `${name}: p99 below ${P99_LIMIT_MS} ms`, met: load.p99Ms < P99_LIMIT_MS })
  }
  return {
    title: 'Tracker',
    method:
      'A cold rollout of 3 GB in two layers: every node asks for the tag, joins both swarms within 2 s, asks for more ' +
      'neighbours once and tells its chunks for 10 s (every second, less often in a large swarm); leases are granted and answered. Real messages, ' +
      'decoded and encoded, against the decisions of the tracker on one core in real time; p99 is from the moment a ' +
      `message is due to the end of its handling. A message over a real connection costs a real tracker ${messageUs.toFixed(0)} µs ` +
      `of processor time (${CONNECTIONS} connections; Noise, Yamux and decision together), from which the share of a ` +
      'core for the connections is computed. Bytes are per node and rollout.',
    columns: [
      'nodes',
      'messages/s',
      'p99 ms',
      'decisions: % of a core',
      'connections: % of a core',
      'bytes in',
      'bytes out',
    ],
    rows,
    targets,
  }
}
