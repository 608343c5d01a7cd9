// Images that are brought to many nodes ahead of time: which nodes get the order, and how far each of them is. Nodes
// pull as they always do, so the swarm and its leases see to it that the origin gives one copy.
import { createHash, randomBytes } from 'node:crypto'
import type { ControlChannel, PreheatOrder, PreheatReport } from '@shoal/network'
import type { Logger } from 'pino'

/** Preheats that are remembered; the oldest that is over goes first. */
const MAX_REMEMBERED = 100
/** Preheats that run at the same time; more are refused. */
const MAX_RUNNING = 16
/** An order that nobody has taken notice of is sent again, so often. */
const MAX_TRIES = 5
const RETRY_MS = 3_000
/** A node that is gone may come back within this time and go on. */
const LOST_AFTER_MS = 60_000

export interface PreheatWish {
  image: string
  platform: string
  /** Only nodes of this zone; undefined: of all. */
  zone: string | undefined
  /** Share of these nodes, 1 to 100. A larger share of later includes the same nodes. */
  nodesPercent: number
  action: PreheatOrder['action']
}

export type NodeState = PreheatReport['state'] | 'ordered' | 'lost'

export interface PreheatNode {
  peerId: string
  zone: string
  state: NodeState
  totalBytes: number
  receivedBytes: number
  fromPeersBytes: number
  fromOriginBytes: number
  reason: string
}

interface TrackedNode extends PreheatNode {
  tries: number
  /** Of the last order that was sent, or of the loss of the node. */
  sinceMs: number
}

export interface Preheat extends PreheatWish {
  id: string
  state: 'running' | 'done' | 'failed' | 'cancelled'
  nodes: Map<string, TrackedNode>
  /** Nodes that are not over with it: thousands report each second, so they are not counted anew each time. */
  openNodes: number
}

export interface PreheatsOptions {
  /** Agents that are connected right now. */
  agents: () => ControlChannel[]
  logger: Logger
}

/** All preheats of a tracker. */
export class Preheats {
  readonly #options: PreheatsOptions
  readonly #preheats = new Map<string, Preheat>()
  readonly #retry: NodeJS.Timeout

  constructor(options: PreheatsOptions) {
    this.#options = options
    this.#retry = setInterval(() => this.sweep(performance.now()), RETRY_MS).unref()
  }

  close(): void {
    clearInterval(this.#retry)
  }

  list(): Preheat[] {
    return [...this.#preheats.values()]
  }

  get(id: string): Preheat | undefined {
    return this.#preheats.get(id)
  }

  /** Sends the order to the nodes that are wished for. Undefined when too many preheats run already. */
  start(wish: PreheatWish, nowMs: number): Preheat | undefined {
    if (this.list().filter(({ state }) => state === 'running').length >= MAX_RUNNING) return undefined
    for (const { id, state } of this.list()) {
      if (this.#preheats.size < MAX_REMEMBERED) break
      if (state !== 'running') this.#preheats.delete(id)
    }
    const candidates = this.#options
      .agents()
      .filter(({ hello }) => wish.zone === undefined || hello.node.zone === wish.zone)
    const count = Math.ceil((candidates.length * wish.nodesPercent) / 100)
    const chosen = candidates.sort((a, b) => order(a.peerId).compare(order(b.peerId))).slice(0, count)
    const preheat: Preheat = {
      ...wish,
      id: randomBytes(8).toString('hex'),
      state: 'running',
      nodes: new Map(),
      openNodes: count,
    }
    for (const { peerId, hello } of chosen) {
      const bytes = { totalBytes: 0, receivedBytes: 0, fromPeersBytes: 0, fromOriginBytes: 0 }
      const node = {
        peerId,
        zone: hello.node.zone,
        state: 'ordered' as const,
        ...bytes,
        reason: '',
        tries: 0,
        sinceMs: nowMs,
      }
      preheat.nodes.set(peerId, node)
    }
    this.#preheats.set(preheat.id, preheat)
    for (const channel of chosen) this.#order(channel, preheat, nowMs)
    this.#settle(preheat)
    this.#options.logger.info({ preheat: preheat.id, ...wish, nodes: count }, 'a preheat was ordered')
    return preheat
  }

  /** Ends a preheat: nodes that are at it stop. False when there is none that runs. */
  cancel(id: string): boolean {
    const preheat = this.#preheats.get(id)
    if (preheat?.state !== 'running') return false
    preheat.state = 'cancelled'
    for (const channel of this.#options.agents()) {
      if (preheat.nodes.has(channel.peerId)) channel.send({ type: 'preheat-cancel', preheatId: id })
    }
    return true
  }

  report(peerId: string, { type: _, preheatId, digest: __, errorCode, ...report }: PreheatReport): void {
    const preheat = this.#preheats.get(preheatId)
    const node = preheat?.nodes.get(peerId)
    if (preheat?.state !== 'running' || node === undefined || isOver(node.state)) return
    Object.assign(node, report, { reason: errorCode === '' ? report.reason : `${report.reason} (${errorCode})` })
    if (isOver(node.state)) this.#over(preheat)
  }

  /** A node that came back is told again: it may have been restarted. */
  connected(channel: ControlChannel, nowMs: number): void {
    for (const preheat of this.list()) {
      const node = preheat.nodes.get(channel.peerId)
      if (preheat.state !== 'running' || node === undefined || isOver(node.state)) continue
      node.tries = 0
      this.#order(channel, preheat, nowMs)
    }
  }

  /** Sends again what nobody took notice of, and gives up on who is gone or does not know of preheats. */
  sweep(nowMs: number): void {
    const connected = new Map(this.#options.agents().map((channel) => [channel.peerId, channel]))
    for (const preheat of this.list()) {
      if (preheat.state !== 'running') continue
      for (const node of preheat.nodes.values()) {
        if (isOver(node.state)) continue
        const channel = connected.get(node.peerId)
        if (channel === undefined) {
          if (node.state !== 'lost') Object.assign(node, { state: 'lost', sinceMs: nowMs })
          else if (nowMs - node.sinceMs >= LOST_AFTER_MS) this.#fail(preheat, node, 'the node is gone')
        } else if (node.state === 'ordered') {
          if (node.tries >= MAX_TRIES) this.#fail(preheat, node, 'the node does not answer: its version may be too old')
          else this.#order(channel, preheat, nowMs)
        }
      }
    }
  }

  #order(channel: ControlChannel, { id, image, platform, action, nodes }: Preheat, nowMs: number): void {
    const node = nodes.get(channel.peerId)
    if (node === undefined) return
    Object.assign(node, { state: 'ordered', tries: node.tries + 1, sinceMs: nowMs })
    channel.send({ type: 'preheat-order', preheatId: id, image, platform, action })
  }

  #fail(preheat: Preheat, node: TrackedNode, reason: string): void {
    Object.assign(node, { state: 'failed', reason })
    this.#over(preheat)
  }

  /** A node is over with it. */
  #over(preheat: Preheat): void {
    preheat.openNodes--
    this.#settle(preheat)
  }

  #settle(preheat: Preheat): void {
    if (preheat.openNodes > 0) return
    const states = [...preheat.nodes.values()].map(({ state }) => state)
    preheat.state = states.includes('failed') ? 'failed' : 'done'
    this.#options.logger.info({ preheat: preheat.id, state: preheat.state }, 'a preheat is over')
  }
}

function isOver(state: NodeState): boolean {
  return state === 'done' || state === 'failed'
}

/** Places nodes in an order that has nothing to do with where they are, and is the same every time. */
function order(peerId: string): Buffer {
  return createHash('sha256').update(peerId).digest()
}
