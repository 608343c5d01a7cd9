// What one tracker can carry. Its decisions are measured with as many members as a large cluster has, in a process of
// their own; what a message costs on a real connection is measured at a real tracker.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import {
  createControlPlane,
  createIdentity,
  loadSwarmKeys,
  type ControlChannel,
  type ControlMessage,
} from '@shoal/network'
import pino from 'pino'
import { withDaemons, type Daemons } from './daemons.ts'
import type { SectionResult, Target } from './figures.ts'
import { cpuSeconds } from '../support/process-cost.ts'
import { BLOB_BYTES, BLOBS, chunksAt } from './tracker-load.ts'
import type { Load } from './tracker-play.ts'

const CASES: readonly Case[] = [
  { name: '1000', nodes: 1000, blobs: 2 },
  { name: '5000', nodes: 5000, blobs: 2 },
  { name: '15000', nodes: 15_000, blobs: 2 },
  { name: '15000, one of two trackers', nodes: 15_000, blobs: 1 },
]
const P99_LIMIT_MS = 50
const CONNECTIONS = 32
const MESSAGES_EACH = 2000
/** The traffic is some 15 s long. */
const PLAY_LIMIT_MS = 120_000
/** As `shoal tracker` runs (packages/cli/bin/shoal). */
const DAEMON_FLAGS = ['--max-semi-space-size=4', '--disable-warning=ExperimentalWarning']

interface Case {
  name: string
  nodes: number
  /** Of how many of the image's two blobs the tracker is in charge. */
  blobs: number
}

/** Plays a rollout in a process of its own, with the limits that a tracker runs with. */
async function play({ nodes, blobs }: Case): Promise<Load> {
  const program = join(import.meta.dirname, 'tracker-play.ts')
  const child = fork(program, [String(nodes), String(blobs)], { execArgv: [...DAEMON_FLAGS], timeout: PLAY_LIMIT_MS })
  const [load] = (await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(() => Promise.reject(new Error('the traffic could not be played'))),
  ])) as [Load]
  return load
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
  for (const each of CASES) {
    const { name } = each
    const load = await play(each)
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
      'decoded and encoded, against the decisions of a tracker in a process of its own, in real time; p99 is from the moment a ' +
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
