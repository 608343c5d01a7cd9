// What an agent of a virtual cluster does without a tracker: finds its swarm among the nodes it knows, tells what it is
// fetching from the origin, and decides by the policy what that is. This is more than the daemon does today, which neither
// passes claims on nor uses OriginWindow (docs/decisions/0008-without-a-tracker.md).
import { ChunkMap } from '@shoal/store'
import { OriginWindow, chooseOriginRun } from '@shoal/swarm/policy'
import type { VirtualNode } from './virtual-node.ts'
import type { World } from './world.ts'

/** How often a node without a tracker looks for what it has to fetch. */
const LOOK_MS = 25
/** Connected agents have so long to say that they take part (the daemon's grace). */
const GRACE_MS = 60
/** How often it looks for more neighbours while it has few. */
const MORE_MS = 500
/** A claim that is not told again holds for so long (the daemon's `takeoverMs`). */
const CLAIM_MS = 2000
/** A claim is told again this often. */
const CLAIM_NEWS_MS = 800

/** Claims on the chunks of one blob, as one node has heard of them. */
class Claims {
  readonly window: OriginWindow
  /** When the newest word on each chunk was said by its holder. */
  readonly saidMs: Float64Array
  readonly active: Uint8Array
  constructor(chunkCount: number) {
    this.window = new OriginWindow(chunkCount)
    this.saidMs = new Float64Array(chunkCount).fill(-Infinity)
    this.active = new Uint8Array(chunkCount)
  }
}

/** One node's part in a swarm without a tracker. */
export class Untracked {
  readonly #world: World
  readonly #node: VirtualNode
  readonly #claims: Claims[]
  /** What this node believes the number of members to be. */
  readonly #members: number
  /** Nodes that it knows from the DHT and its connections, and those that have asked it. */
  readonly #known: number[] = []
  #running = 0
  #moreMs = 0
  #sinceMs = 0
  #started = false

  constructor(world: World, node: VirtualNode) {
    this.#world = world
    this.#node = node
    this.#claims = world.blobs.map((shape) => new Claims(shape.chunkCount))
    const { nodes, knownPeers = 48 } = world.scenario
    // A small cluster is known as a whole; of a large one there is a guess from the DHT, off by up to 40 %.
    this.#members = nodes <= knownPeers + 1 ? nodes : Math.round(nodes * (0.7 + 0.7 * world.random()))
    const known = new Set<number>()
    while (known.size < Math.min(knownPeers, nodes - 1)) {
      const other = Math.floor(world.random() * nodes)
      if (other !== node.index) known.add(other)
    }
    this.#known.push(...known)
  }

  /** From now on there is no tracker for this node. */
  start(): void {
    if (this.#started) return
    this.#started = true
    this.#sinceMs = this.#world.nowMs
    // What a tracker knew, the swarm has to know now: which chunks have left the origin.
    for (const [blob, part] of this.#node.parts.entries()) {
      for (const chunk of part.fromOrigin) this.claim(blob, chunk, !part.chunks.has(chunk))
    }
    this.#findNeighbours()
    this.#world.after(LOOK_MS * this.#world.random(), () => this.#look())
  }

  /** A node that is not in the swarm yet has been asked: it will know whom to turn to. */
  interested(index: number): void {
    if (this.#known.length < 256) this.#known.push(index)
  }

  /** A new neighbour hears what is being fetched. */
  tellAll(blob: number, other: Untracked): void {
    const claims = this.#claims[blob]!
    for (let chunk = 0; chunk < claims.saidMs.length; chunk++) {
      if (claims.saidMs[chunk]! >= 0) other.#heard(blob, chunk, claims.active[chunk] === 1, claims.saidMs[chunk]!)
    }
  }

  /** This node fetches a chunk from the origin, or does no longer. */
  claim(blob: number, chunk: number, active: boolean): void {
    this.#heard(blob, chunk, active, this.#world.nowMs)
  }

  #heard(blob: number, chunk: number, active: boolean, saidMs: number): void {
    const claims = this.#claims[blob]!
    if (saidMs <= claims.saidMs[chunk]!) return
    claims.saidMs[chunk] = saidMs
    claims.active[chunk] = active ? 1 : 0
    const { neighbours } = this.#node.parts[blob]!
    this.#world.messages += neighbours.length
    this.#world.after(this.#world.delayMs, () => {
      if (!this.#node.alive) return
      for (const { peer } of neighbours) {
        const { untracked } = peer.node
        if (untracked !== undefined && peer.node.alive) untracked.#heard(blob, chunk, active, saidMs)
      }
    })
  }

  #findNeighbours(): void {
    const { parameters } = this.#world
    this.#moreMs = this.#world.nowMs
    for (const [blob, part] of this.#node.parts.entries()) {
      let room = parameters.neighbours - part.neighbours.length
      for (const index of this.#known) {
        const other = this.#world.node(index)
        if (other === undefined) {
          this.#world.interest(index, this.#node.index)
          continue
        }
        if (room-- > 0) this.#node.connect(blob, index)
      }
    }
  }

  #look(): void {
    if (!this.#node.alive || this.#node.finishedMs >= 0) return
    const now = this.#world.nowMs
    const few = this.#node.parts.some((part) => part.neighbours.length < this.#world.parameters.introducedNeighbours)
    if (few && now - this.#moreMs >= MORE_MS) this.#findNeighbours()
    if (now - this.#sinceMs >= GRACE_MS) {
      for (let blob = 0; blob < this.#claims.length; blob++) this.#fetchOwn(blob)
    }
    this.#world.after(LOOK_MS * (0.5 + this.#world.random()), () => this.#look())
  }

  #fetchOwn(blob: number): void {
    const { parameters, nowMs, random } = this.#world
    const part = this.#node.parts[blob]!
    if (part.open.count === 0) return
    const others = part.neighbours.filter(({ peer }) => peer.node.finishedMs < 0)
    const limit = parameters.leasesPerNode * (others.length === 0 && this.#members <= 1 ? 2 : 1)
    if (this.#running >= limit) return
    const { candidates, claimed } = this.#candidates(blob)
    if (candidates.count === 0) return
    const blobHash = part.shape.hash
    let run: { first: number; count: number } | undefined
    if (this.#members <= part.neighbours.length + 1) {
      const hashes = others.map(({ peer }) => peer.node.hash)
      run = chooseOriginRun(candidates, this.#node.hash, hashes, blobHash, parameters, random)
    } else {
      const view = { candidates, claimed, members: this.#members, self: this.#node.hash, blobHash }
      const chunk = this.#claims[blob]!.window.choose(view, parameters, nowMs)
      if (chunk >= 0) run = { first: chunk, count: 1 }
    }
    if (run === undefined) return
    this.#running++
    const chunks = Array.from({ length: run.count }, (_, at) => run.first + at)
    for (const chunk of chunks) this.claim(blob, chunk, true)
    let over = false
    const news = () => {
      if (over || !this.#node.alive) return
      for (const chunk of chunks) if (!part.chunks.has(chunk)) this.claim(blob, chunk, true)
      this.#world.after(CLAIM_NEWS_MS, news)
    }
    this.#world.after(CLAIM_NEWS_MS, news)
    this.#node.runs.fetch(part, chunks, undefined, () => {
      over = true
      this.#running--
      for (const chunk of chunks) this.claim(blob, chunk, false)
    })
  }

  /** Chunks that nobody near has or fetches, and how many are on their way somewhere. */
  #candidates(blob: number): { candidates: ChunkMap; claimed: number } {
    const part = this.#node.parts[blob]!
    const claims = this.#claims[blob]!
    const candidates = new ChunkMap(part.shape.chunkCount)
    const { nowMs } = this.#world
    let claimed = 0
    for (let chunk = 0; chunk < part.shape.chunkCount; chunk++) {
      const saidMs = claims.saidMs[chunk]!
      if (claims.active[chunk] === 1) {
        if (nowMs - saidMs < CLAIM_MS) claimed++
        if (nowMs - saidMs < CLAIM_MS) continue
      } else if (saidMs >= 0 && nowMs - Math.max(saidMs, part.progressMs) < CLAIM_MS) continue
      if (part.availability[chunk] === 0 && part.open.has(chunk)) candidates.add(chunk)
    }
    return { candidates, claimed }
  }
}
