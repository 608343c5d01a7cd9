// How long the DHT takes to be told of a blob and to find it, among real processes.
import { fork, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import type { Digest } from '@shoal/oci'
import { withDaemons } from './daemons.ts'
import type { DhtAnswer, DhtOrder } from './dht-node.ts'
import { percentile, type SectionResult } from './figures.ts'
import { memory } from '../support/process-cost.ts'

const SIZES = [10, 30, 60]
const BLOBS = 20
/** Processes that are started at a time: starting costs a processor more than running does. */
const STARTED_AT_ONCE = 4

class DhtProcess {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (answer: DhtAnswer) => void>()
  #nextId = 1

  private constructor(child: ChildProcess) {
    this.#child = child
    child.on('message', (answer: DhtAnswer) => this.#waiting.get(answer.id)?.(answer))
  }

  static async start(keyFile: string, bootstrap: readonly string[]): Promise<{ node: DhtProcess; address: string }> {
    const child = fork(join(import.meta.dirname, 'dht-node.ts'), [keyFile, ...bootstrap], {
      execArgv: ['--disable-warning=ExperimentalWarning'],
    })
    const [first] = (await Promise.race([
      once(child, 'message'),
      once(child, 'exit').then(() => Promise.reject(new Error('a node of the DHT did not start'))),
    ])) as [{ address: string }]
    return { node: new DhtProcess(child), address: first.address }
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  async ask(what: 'provide' | 'find', digest: Digest): Promise<DhtAnswer> {
    const id = this.#nextId++
    const { promise, resolve } = Promise.withResolvers<DhtAnswer>()
    this.#waiting.set(id, resolve)
    this.#child.send({ id, do: what, digest } satisfies DhtOrder)
    const answer = await promise
    this.#waiting.delete(id)
    if (answer.error !== undefined) throw new Error(answer.error)
    return answer
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null) return
    const exited = once(this.#child, 'exit')
    this.#child.send({ id: 0, do: 'stop' } satisfies DhtOrder)
    const limit = setTimeout(() => this.#child.kill('SIGKILL'), 5000)
    await exited
    clearTimeout(limit)
  }
}

export async function dht(): Promise<SectionResult> {
  const rows = await withDaemons(async ({ swarmKeyFile }) => {
    const all: string[][] = []
    for (const size of SIZES) all.push(await measure(size, swarmKeyFile))
    return all
  })
  return {
    title: 'DHT',
    method:
      `Real processes on this machine, each a DHT server. ${BLOBS} blobs are announced one after another, each by ` +
      'another node, then each is looked for by a node that did not announce it. Milliseconds.',
    columns: ['nodes', 'announce p50', 'announce p99', 'find p50', 'find p99', 'found', 'resident MB each'],
    rows,
    targets: [],
  }
}

async function measure(size: number, keyFile: string): Promise<string[]> {
  const nodes: DhtProcess[] = []
  try {
    const first = await DhtProcess.start(keyFile, [])
    nodes.push(first.node)
    while (nodes.length < size) {
      const count = Math.min(STARTED_AT_ONCE, size - nodes.length)
      const started = await Promise.all(Array.from({ length: count }, () => DhtProcess.start(keyFile, [first.address])))
      nodes.push(...started.map(({ node }) => node))
    }
    const announce: number[] = []
    const find: number[] = []
    let found = 0
    for (let blob = 0; blob < BLOBS; blob++) {
      const digest: Digest = `sha256:${createHash('sha256').update(`${size} ${blob}`).digest('hex')}`
      const owner = nodes[(blob * 7) % size]
      const seeker = nodes[(blob * 7 + 3) % size]
      if (owner === undefined || seeker === undefined) throw new RangeError('too few nodes')
      announce.push((await owner.ask('provide', digest)).tookMs)
      const answer = await seeker.ask('find', digest)
      find.push(answer.tookMs)
      found += answer.found
    }
    const resident = nodes.reduce((sum, { pid }) => sum + memory(pid).residentBytes, 0) / size
    const times = [percentile(announce, 0.5), percentile(announce, 0.99), percentile(find, 0.5), percentile(find, 0.99)]
    return [String(size), ...times.map((ms) => ms.toFixed(0)), `${found} of ${BLOBS}`, (resident / 1e6).toFixed(0)]
  } finally {
    await Promise.all(nodes.map((node) => node.stop()))
  }
}
