// Plays the messages of a rollout to the decisions of a tracker, in real time. A process of its own: its garbage is the
// tracker's, its processor time, too. With the number of nodes and of blobs as arguments it tells its parent the figures.
import { Coordinator } from '@shoal/tracker'
import { createTrackerMetrics } from '@shoal/tracker/metrics'
import { decodeControlMessage, encodeControlMessage, type ControlChannel, type ControlMessage } from '@shoal/network'
import pino from 'pino'
import { Registry } from 'prom-client'
import { percentile } from './figures.ts'
import { BLOBS, layOut, type Said } from './tracker-load.ts'

/** A lease holder has its chunks after so long. */
const LEASE_MS = 100

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

export interface Load {
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
  const traffic = await layOut(nodes, blobs)
  /** What lease holders and those that look a tag up will say, in order of time. */
  const replies: Said[] = []
  const reply = (said: Said): void => {
    replies.splice(replies.findLastIndex(({ atMs }) => atMs <= said.atMs) + 1, 0, said)
  }
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
          reply({ atMs: atMs + LEASE_MS, node: index, bytes: encodeControlMessage(done) })
        } else if (message.type === 'tag-lookup') {
          const { requestId, reference } = message
          const found = {
            digest: blobs[0] ?? ('' as const),
            mediaType: 'application/json',
            sizeBytes: 1000,
            errorCode: '',
          }
          const result: ControlMessage = { type: 'tag-result', requestId, reference, ...found }
          reply({ atMs: atMs + 5, node: index, bytes: encodeControlMessage(result) })
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
  while (next < traffic.ends.length) {
    const nowMs = performance.now() - startMs
    // A turn of the event loop handles what has come by then, as reading from sockets does.
    const due: Said[] = []
    for (; traffic.atMs[next]! <= nowMs; next++) {
      const bytes = traffic.bytes.subarray(traffic.ends[next - 1] ?? 0, traffic.ends[next])
      due.push({ atMs: traffic.atMs[next]!, node: traffic.nodes[next]!, bytes })
    }
    while (replies[0] !== undefined && replies[0].atMs <= nowMs) due.push(replies.shift() as Said)
    for (const said of due) hear(said)
    handled += due.length
    if (due.length > 0) {
      await new Promise((resolve) => setImmediate(resolve))
      continue
    }
    // With nothing to do the process sleeps until something is due, so that its processor time is the tracker's.
    const dueMs = Math.min(traffic.atMs[next] ?? Infinity, replies[0]?.atMs ?? Infinity)
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

const [nodes = '', blobs = ''] = process.argv.slice(2)
process.send?.(await play(Number(nodes), BLOBS.slice(0, Number(blobs))))
process.disconnect()
