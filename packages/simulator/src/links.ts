// Bytes on their way, as a fluid: every flow gets what its sender, its receiver and the borders it crosses allow, the way
// that TCP shares a link about evenly among its connections (max-min fairness, by a few rounds of filling up).

/** Rounds of filling up in each step: what a flow cannot use is given to others in the next round. */
const ROUNDS = 3
/** Share of a link that counts as nothing left. */
const SPENT = 1e-3
/** A link of which so much is used has a full queue in front of it. */
const BUSY = 0.95

/** Bytes of one transfer. */
export interface Flow {
  /** Position in the list of flows; -1 when it is over. */
  at: number
  readonly from: number
  readonly to: number
  readonly bytes: number
  /** Called in the step in which the last byte arrives. */
  readonly onDone: () => void
}

/** Ends of links, by node; the borders of zones, by zone. */
export interface LinkRates {
  /** Bytes per millisecond that each node sends and receives. */
  readonly up: Float64Array
  readonly down: Float64Array
  /** Zone of each node; a flow between two zones crosses the border of both. */
  readonly zone: Int32Array
  /** Bytes per millisecond across each zone's border, each way; Infinity for none. */
  readonly border: Float64Array
  /** Bytes per millisecond that one connection reaches at most. */
  readonly perFlow: number
}

/** All flows of a cluster. */
export class Links {
  readonly #rates: LinkRates
  readonly #flows: Flow[] = []
  #from = new Int32Array(1024)
  #to = new Int32Array(1024)
  #remaining = new Float64Array(1024)
  #rate = new Float64Array(1024)
  readonly #upFlows: Int32Array
  readonly #downFlows: Int32Array
  /** Bytes per millisecond that nobody uses now. */
  readonly #upLeft: Float64Array
  readonly #downLeft: Float64Array
  readonly #upShare: Float64Array
  readonly #downShare: Float64Array
  readonly #upOpen: Int32Array
  readonly #downOpen: Int32Array
  readonly #upSpent: Uint8Array
  readonly #downSpent: Uint8Array
  readonly #outFlows: Int32Array
  readonly #inFlows: Int32Array
  readonly #bordersLimited: boolean
  #changed = true
  /** Bytes that each node has sent, and that have come into and gone out of each zone. */
  readonly sent: Float64Array
  readonly received: Float64Array
  readonly zoneIn: Float64Array
  readonly zoneOut: Float64Array

  constructor(rates: LinkRates) {
    const nodes = rates.up.length
    const zones = rates.border.length
    this.#rates = rates
    this.#upFlows = new Int32Array(nodes)
    this.#downFlows = new Int32Array(nodes)
    this.#upShare = new Float64Array(nodes)
    this.#downShare = new Float64Array(nodes)
    this.#upSpent = new Uint8Array(nodes)
    this.#downSpent = new Uint8Array(nodes)
    this.#upOpen = new Int32Array(nodes)
    this.#downOpen = new Int32Array(nodes)
    this.#upLeft = rates.up.slice()
    this.#downLeft = rates.down.slice()
    this.sent = new Float64Array(nodes)
    this.received = new Float64Array(nodes)
    this.#outFlows = new Int32Array(zones)
    this.#inFlows = new Int32Array(zones)
    this.zoneIn = new Float64Array(zones)
    this.zoneOut = new Float64Array(zones)
    this.#bordersLimited = rates.border.some((rate) => rate !== Infinity)
  }

  get count(): number {
    return this.#flows.length
  }

  add(from: number, to: number, bytes: number, onDone: () => void): Flow {
    const at = this.#flows.length
    if (at === this.#from.length) this.#grow()
    const flow: Flow = { at, from, to, bytes, onDone }
    this.#flows.push(flow)
    this.#from[at] = from
    this.#to[at] = to
    this.#remaining[at] = bytes
    this.#rate[at] = 0
    this.#count(from, to, 1)
    return flow
  }

  /** Ends a flow early; nothing happens when it is over already. */
  remove(flow: Flow): void {
    const { at } = flow
    if (at < 0) return
    const carried = flow.bytes - Math.max(0, this.#remaining[at]!)
    this.sent[flow.from]! += carried
    this.received[flow.to]! += carried
    const fromZone = this.#rates.zone[flow.from]!
    const toZone = this.#rates.zone[flow.to]!
    if (fromZone !== toZone) {
      this.zoneOut[fromZone]! += carried
      this.zoneIn[toZone]! += carried
    }
    const last = this.#flows.pop()!
    const end = this.#flows.length
    if (last !== flow) {
      this.#flows[at] = last
      last.at = at
      this.#from[at] = this.#from[end]!
      this.#to[at] = this.#to[end]!
      this.#remaining[at] = this.#remaining[end]!
      this.#rate[at] = this.#rate[end]!
    }
    flow.at = -1
    this.#count(flow.from, flow.to, -1)
  }

  /**
   * How long a small message waits behind content on its way from one node to another, in milliseconds. TCP keeps the
   * queue in front of a link that is the limit full, as far as the transfers under way have bytes for it. What is in the
   * queue is late for nobody else: the link carries it as fast as it can either way.
   */
  queueMs(from: number, to: number, queueBytes: number): number {
    const { up, down } = this.#rates
    const upBusy = this.#upLeft[from]! < (1 - BUSY) * up[from]!
    const downBusy = this.#downLeft[to]! < (1 - BUSY) * down[to]!
    if (!upBusy && !downBusy) return 0
    let upBytes = 0
    let downBytes = 0
    for (let at = 0; at < this.#flows.length; at++) {
      if (upBusy && this.#from[at] === from) upBytes += this.#remaining[at]!
      if (downBusy && this.#to[at] === to) downBytes += this.#remaining[at]!
    }
    const upMs = upBusy ? Math.min(queueBytes, upBytes) / up[from]! : 0
    return upMs + (downBusy ? Math.min(queueBytes, downBytes) / down[to]! : 0)
  }

  /** Bytes of a flow that are still to come. */
  remaining(flow: Flow): number {
    return flow.at < 0 ? 0 : this.#remaining[flow.at]!
  }

  /** Moves the bytes of one step, then tells the flows that are over. */
  advance(stepMs: number): void {
    if (this.#changed) this.#share()
    const remaining = this.#remaining
    const rate = this.#rate
    const over: Flow[] = []
    for (let at = 0; at < this.#flows.length; at++) {
      remaining[at]! -= rate[at]! * stepMs
      if (remaining[at]! <= 1e-6) over.push(this.#flows[at]!)
    }
    for (const flow of over) this.remove(flow)
    for (const flow of over) flow.onDone()
  }

  /**
   * Gives every flow its rate. A large simulation spends much of its time here: each round passes twice over the flows,
   * and what can be said of a link is said once for it, not again for each of its flows.
   */
  #share(): void {
    const { up, down, perFlow } = this.#rates
    const upLeft = this.#upLeft
    const downLeft = this.#downLeft
    const from = this.#from
    const to = this.#to
    const rate = this.#rate
    const length = this.#flows.length
    const borders = this.#bordersLimited ? this.#borderShare() : undefined
    upLeft.set(up)
    downLeft.set(down)
    rate.fill(0, 0, length)
    for (let round = 0; round < ROUNDS; round++) {
      if (round === 0) {
        this.#upOpen.set(this.#upFlows)
        this.#downOpen.set(this.#downFlows)
      } else this.#countOpen()
      // The shares are fixed before anybody takes: so the order of the flows does not matter.
      divide(this.#upShare, upLeft, this.#upOpen)
      divide(this.#downShare, downLeft, this.#downOpen)
      const upShare = this.#upShare
      const downShare = this.#downShare
      upLeft.set(up)
      downLeft.set(down)
      for (let at = 0; at < length; at++) {
        const u = from[at]!
        const d = to[at]!
        let total = rate[at]! + lesser(upShare[u]!, downShare[d]!)
        if (total > perFlow) total = perFlow
        if (borders !== undefined) total = Math.min(total, borders(at))
        rate[at] = total
        upLeft[u]! -= total
        downLeft[d]! -= total
      }
    }
    this.#changed = false
  }

  /** Counts the flows of each link that could still go faster: neither end is spent. */
  #countOpen(): void {
    const { up, down } = this.#rates
    const upOpen = this.#upOpen
    const downOpen = this.#downOpen
    const upSpent = this.#upSpent
    const downSpent = this.#downSpent
    for (let node = 0; node < up.length; node++) {
      upSpent[node] = this.#upLeft[node]! > SPENT * up[node]! ? 0 : 1
      downSpent[node] = this.#downLeft[node]! > SPENT * down[node]! ? 0 : 1
    }
    upOpen.fill(0)
    downOpen.fill(0)
    const from = this.#from
    const to = this.#to
    const length = this.#flows.length
    for (let at = 0; at < length; at++) {
      const u = from[at]!
      const d = to[at]!
      const open = 1 - (upSpent[u]! | downSpent[d]!)
      upOpen[u]! += open
      downOpen[d]! += open
    }
  }

  /** The share of each flow at the borders that it crosses; a border shares evenly among the flows across it. */
  #borderShare(): (at: number) => number {
    const { zone, border } = this.#rates
    return (at) => {
      const fromZone = zone[this.#from[at]!]!
      const toZone = zone[this.#to[at]!]!
      if (fromZone === toZone) return Infinity
      return Math.min(border[fromZone]! / this.#outFlows[fromZone]!, border[toZone]! / this.#inFlows[toZone]!)
    }
  }

  #count(from: number, to: number, by: number): void {
    this.#changed = true
    this.#upFlows[from]! += by
    this.#downFlows[to]! += by
    const fromZone = this.#rates.zone[from]!
    const toZone = this.#rates.zone[to]!
    if (fromZone === toZone) return
    this.#outFlows[fromZone]! += by
    this.#inFlows[toZone]! += by
  }

  #grow(): void {
    const size = this.#from.length * 2
    const wider = <T extends Int32Array | Float64Array>(old: T, fresh: T): T => {
      fresh.set(old)
      return fresh
    }
    this.#from = wider(this.#from, new Int32Array(size))
    this.#to = wider(this.#to, new Int32Array(size))
    this.#remaining = wider(this.#remaining, new Float64Array(size))
    this.#rate = wider(this.#rate, new Float64Array(size))
  }
}

/** What each link has left, for each of its flows that could go faster; nothing where there is none. */
function divide(share: Float64Array, left: Float64Array, open: Int32Array): void {
  for (let node = 0; node < share.length; node++) share[node] = open[node]! > 0 ? left[node]! / open[node]! : 0
}

/** The lesser of two, up to rounding, without a branch: which of them it is cannot be predicted, and that is dear. */
function lesser(a: number, b: number): number {
  return (a + b - Math.abs(a - b)) / 2
}
