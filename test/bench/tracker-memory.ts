// What a tracker takes for what the nodes of a large cluster have in their stores.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { SectionResult } from './figures.ts'
import type { Held } from './tracker-hold.ts'

const NODES = 15_000
/** Of each node. */
const BLOBS: readonly number[] = [10, 50, 100]
const LIMIT_MS = 300_000

async function held(blobs: number): Promise<Held> {
  const execArgv = ['--expose-gc', '--max-semi-space-size=4', '--disable-warning=ExperimentalWarning']
  const program = join(import.meta.dirname, 'tracker-hold.ts')
  const child = fork(program, [String(NODES), String(blobs)], { execArgv, timeout: LIMIT_MS })
  const [answer] = (await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(() => Promise.reject(new Error('the tracker did not hold them'))),
  ])) as [Held]
  return answer
}

export async function trackerMemory(): Promise<SectionResult> {
  const rows: string[][] = []
  for (const blobs of BLOBS) {
    const { memberships, heapBytes, residentBytes, joinMicroseconds, leaveMilliseconds } = await held(blobs)
    rows.push([
      ...[
        String(blobs),
        (memberships / 1e6).toFixed(2),
        (heapBytes / 1e6).toFixed(0),
        (residentBytes / 1e6).toFixed(0),
      ],
      ...[(residentBytes / memberships).toFixed(0), joinMicroseconds.toFixed(1), leaveMilliseconds.toFixed(1)],
    ])
  }
  return {
    title: 'What a tracker takes for what nodes have',
    method:
      `${NODES} nodes tell of whole blobs, each of the same ones, as they do when a tracker was restarted (an agent tells of a thousand ` +
      'at most, in one message). What connections take comes on top.',
    columns: [
      ...['blobs of each node', 'memberships, millions', 'heap MB', 'resident MB', 'bytes each'],
      ...['processor time of each, µs', 'a node goes, ms'],
    ],
    rows,
    targets: [],
  }
}
