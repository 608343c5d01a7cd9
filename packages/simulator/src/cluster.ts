// A rollout in virtual time: nodes, links, tracker and trouble, put together from a scenario and a seed.
import { chunkSizeFor } from '@shoal/store'
import { DEFAULT_PARAMETERS, textHash, type Random, type SwarmParameters } from '@shoal/swarm/policy'
import { Calendar } from './calendar.ts'
import { Links, type Flow } from './links.ts'
import { measure, type Outcome } from './outcome.ts'
import { seededRandom } from './random.ts'
import { idealMs, type Scenario } from './scenario.ts'
import { VirtualNode } from './virtual-node.ts'
import { VirtualTracker } from './virtual-tracker.ts'
import type { BlobShape, World } from './world.ts'

/** The end of a way that has a link of its own, such as the tracker's. */
const NOBODY = -1

/** Runs a scenario to its end and measures it. The same scenario and seed give the same outcome. */
export function simulate(scenario: Scenario, seed = 1): Outcome {
  return new Cluster(scenario, seed).run()
}

class Cluster implements World {
  readonly scenario: Scenario
  readonly parameters: Readonly<SwarmParameters>
  readonly blobs: readonly BlobShape[]
  readonly random: Random
  readonly delayMs: number
  readonly originIndex: number
  tracker: VirtualTracker | undefined
  messages = 0
  readonly #calendar: Calendar
  readonly #links: Links
  readonly #nodes: VirtualNode[]
  #unfinished: number
  #trackerMessages = 0

  constructor(scenario: Scenario, seed: number) {
    this.scenario = scenario
    this.parameters = { ...DEFAULT_PARAMETERS, ...scenario.parameters }
    this.random = seededRandom(seed)
    this.delayMs = scenario.controlDelayMs ?? 1
    this.originIndex = scenario.nodes
    this.#calendar = new Calendar(scenario.stepMs ?? 1)
    this.blobs = scenario.blobsBytes.map((sizeBytes, index) => {
      const chunkSizeBytes = scenario.chunkSizeBytes ?? chunkSizeFor(sizeBytes)
      return {
        index,
        hash: textHash(`blob ${index}`),
        sizeBytes,
        chunkSizeBytes,
        chunkCount: Math.ceil(sizeBytes / chunkSizeBytes),
      }
    })
    const zones = scenario.zones?.count ?? 1
    const windowMs = scenario.startWindowMs ?? 0
    this.#nodes = Array.from(
      { length: scenario.nodes },
      (_, index) => new VirtualNode(this, index, index % zones, (index / scenario.nodes) * windowMs),
    )
    this.#links = new Links(this.#rates(zones))
    this.#unfinished = scenario.nodes
    this.#plan()
  }

  get hasQueues(): boolean {
    return (this.scenario.queueBytes ?? 0) > 0
  }

  get nowMs(): number {
    return this.#calendar.nowMs
  }

  run(): Outcome {
    const limitMs = this.scenario.limitMs ?? 40 * idealMs(this.scenario) + 60_000
    while (this.#unfinished > 0 && this.nowMs < limitMs) {
      this.#calendar.advance()
      this.#links.advance(this.#calendar.stepMs)
    }
    return measure(this.scenario, this.#nodes, this.#links, {
      messages: this.messages,
      trackerMessages: this.tracker?.messages ?? this.#trackerMessages,
      endMs: this.nowMs,
    })
  }

  after(delayMs: number, action: () => void): void {
    this.#calendar.after(delayMs, action)
  }

  queueMs(from: number, to: number): number {
    const { queueBytes = 0 } = this.scenario
    return queueBytes === 0 ? 0 : this.#links.queueMs(from, to, queueBytes)
  }

  toTracker(from: number, deliver: (tracker: VirtualTracker) => void): void {
    if (this.tracker === undefined) return
    this.after(this.delayMs + this.queueMs(from, NOBODY), () => {
      if (this.tracker !== undefined) deliver(this.tracker)
    })
  }

  fromTracker(to: number, deliver: () => void): void {
    this.after(this.delayMs + this.queueMs(NOBODY, to), deliver)
  }

  node(index: number): VirtualNode | undefined {
    const node = this.#nodes[index]
    return node?.alive === true ? node : undefined
  }

  interest(index: number, from: number): void {
    this.#nodes[index]?.untracked?.interested(from)
  }

  carry(from: number, to: number, bytes: number, onDone: () => void): Flow {
    return this.#links.add(from, to, bytes, onDone)
  }

  stop(flow: Flow): void {
    this.#links.remove(flow)
  }

  remaining(flow: Flow): number {
    return this.#links.remaining(flow)
  }

  finished(_node: VirtualNode): void {
    this.#unfinished--
  }

  #rates(zones: number) {
    const { scenario } = this
    const goodput = scenario.goodput ?? 1
    const nodeRate = (scenario.nodeBytesPerSecond / 1000) * goodput
    const up = new Float64Array(scenario.nodes + 1).fill(nodeRate)
    const down = new Float64Array(scenario.nodes + 1).fill(nodeRate)
    up[this.originIndex] = (scenario.originBytesPerSecond / 1000) * goodput
    if (scenario.slow !== undefined) {
      for (const index of this.#some(scenario.slow.share)) {
        up[index]! *= scenario.slow.factor
        down[index]! *= scenario.slow.factor
        this.#nodes[index]!.impaired = true
      }
    }
    // The origin is outside of all zones.
    const zone = Int32Array.from({ length: scenario.nodes + 1 }, (_, index) => this.#nodes[index]?.zone ?? zones)
    const border = new Float64Array(zones + 1).fill((scenario.zones?.borderBytesPerSecond ?? Infinity) / 1000)
    border[zones] = Infinity
    const perFlow = (scenario.connectionBytesPerSecond ?? Infinity) / 1000
    return { up, down, zone, border, perFlow }
  }

  /** Starts, deaths and the end of the tracker. */
  #plan(): void {
    const { scenario } = this
    if (scenario.trackerLostAtMs !== 0) {
      this.tracker = new VirtualTracker(this, this.random)
      if (scenario.trackerLostAtMs !== undefined) {
        this.after(scenario.trackerLostAtMs, () => {
          this.#trackerMessages = this.tracker?.messages ?? 0
          this.tracker = undefined
          for (const node of this.#nodes) if (node.alive) node.untracked?.start()
        })
      }
    }
    for (const node of this.#nodes) this.after(node.startMs, () => node.start())
    if (scenario.dying === undefined) return
    const { share, fromMs, toMs } = scenario.dying
    for (const index of this.#some(share)) {
      const node = this.#nodes[index]!
      node.impaired = true
      this.after(node.startMs + fromMs + this.random() * (toMs - fromMs), () => {
        if (node.finishedMs < 0) this.#unfinished--
        node.die()
      })
    }
  }

  /** A share of the nodes, chosen at random. */
  #some(share: number): Set<number> {
    const chosen = new Set<number>()
    const count = Math.round(share * this.scenario.nodes)
    while (chosen.size < count) chosen.add(Math.floor(this.random() * this.scenario.nodes))
    return chosen
  }
}
