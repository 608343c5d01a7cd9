// Tells a tracker's decisions of what the nodes of a cluster have in their stores, as they do after it was restarted. A process of
// its own, with --expose-gc: with the number of nodes and of blobs as arguments it tells its parent what that takes.
import { decodeControlMessage, encodeControlMessage, type ControlChannel } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { Coordinator } from '@shoal/tracker'
import { createTrackerMetrics } from '@shoal/tracker/metrics'
import pino from 'pino'
import { Registry } from 'prom-client'
import { MiB } from '../support/images.ts'

/** What is held, and what it takes. */
export interface Held {
  memberships: number
  heapBytes: number
  residentBytes: number
  /** Processor time to read it and to enter it, microseconds for each membership. */
  joinMicroseconds: number
  /** Of one node that goes, milliseconds. */
  leaveMilliseconds: number
}

function nodeOf(number: number): ControlChannel {
  const peerId = `12D3KooW${String(number).padStart(44, 'x')}`
  const node = { peerId, multiaddrs: ['/ip4/10.0.0.1/tcp/7701'], transfer: '10.0.0.1:7702', zone: '' }
  return {
    ...{ peerId, hello: { type: 'hello', version: 1, agent: 'bench', node } },
    ...{ isOpen: true, closed: new Promise(() => undefined), onMessage: () => undefined },
    ...{ send: () => undefined, close: () => Promise.resolve() },
  }
}

function hold(nodes: number, blobs: number): Held {
  const metrics = createTrackerMetrics(new Registry(), { swarms: () => 0, nodes: () => 0, members: () => 0 })
  const logger = pino({ level: 'silent' })
  const coordinator = new Coordinator({ originConcurrency: 32, leaseIdleMs: 2000, tagTtlMs: 1000, logger, metrics })
  const digests = Array.from({ length: blobs }, (_, number) => digestOf(`blob ${number}`))
  const told = encodeControlMessage({
    type: 'tracker-holdings',
    blobs: digests.map((digest) => ({ digest, sizeBytes: 64 * MiB })),
  })
  const channels = Array.from({ length: nodes }, (_, number) => nodeOf(number))
  const collect = globalThis.gc
  if (collect === undefined) throw new Error('to be run with --expose-gc')
  collect()
  const before = process.memoryUsage()
  const cpu = process.cpuUsage()
  for (const channel of channels) {
    const message = decodeControlMessage(told)
    if (message !== undefined) coordinator.receive(channel, message)
  }
  const { user, system } = process.cpuUsage(cpu)
  collect()
  const after = process.memoryUsage()
  const leaving = performance.now()
  const gone = channels.slice(0, 10)
  for (const channel of gone) coordinator.left(channel)
  const leaveMilliseconds = (performance.now() - leaving) / gone.length
  coordinator.close()
  return {
    memberships: nodes * blobs,
    heapBytes: after.heapUsed - before.heapUsed,
    residentBytes: after.rss - before.rss,
    joinMicroseconds: (user + system) / (nodes * blobs),
    leaveMilliseconds,
  }
}

const [nodes = 1, blobs = 1] = process.argv.slice(2).map(Number)
const held = hold(nodes, blobs)
process.send?.(held, () => process.exit(0))
