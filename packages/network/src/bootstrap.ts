// Keeps this node connected to the trackers and static peers of its configuration. libp2p's own bootstrap dials once;
// this one never gives up, looks names up again, and comes back when a tracker does.
import type { Multiaddr } from '@multiformats/multiaddr'
import type { Logger } from 'pino'
import { resolveEndpoint, type ControlEndpoint } from './addresses.ts'
import { messageOf } from './errors.ts'
import { Backoff, NowAndThen, pause } from './pause.ts'

export interface BootstrapInit {
  endpoints: ControlEndpoint[]
  /** Connects and returns the peer id that answered. @throws Error when nobody does */
  connect: (address: Multiaddr, signal: AbortSignal) => Promise<string>
  isConnected: (peerId: string) => boolean
  /** Own peer id: a name may resolve to this node as well. */
  self: string
  logger: Logger
}

const FIRST_RETRY_MS = 200
const LAST_RETRY_MS = 10_000
/** A name is looked up again after so long, even when all is well. */
const RECHECK_MS = 30_000
const DIAL_TIMEOUT_MS = 5000
/** How often it is said that nobody answers: a node that has never got in says nothing else of it. */
const WARNING_INTERVAL_MS = 60_000
/** A name may stand for a whole cluster; so many of its nodes are enough to get in. */
const ENOUGH_PEERS = 8

export class Bootstrap {
  readonly #init: BootstrapInit
  readonly #stop = new AbortController()
  /** Fires when a peer has gone, so that the loops look at once. */
  #wake = new AbortController()
  #loops: Promise<void>[] = []

  constructor(init: BootstrapInit) {
    this.#init = init
  }

  start(): void {
    this.#loops = this.#init.endpoints.map((endpoint) => this.#keepConnected(endpoint))
  }

  /** To be called when a connection was lost. */
  wake(): void {
    this.#wake.abort()
    this.#wake = new AbortController()
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    this.wake()
    await Promise.allSettled(this.#loops)
  }

  async #keepConnected(endpoint: ControlEndpoint): Promise<void> {
    const { logger, self } = this.#init
    const signal = this.#stop.signal
    const backoff = new Backoff(FIRST_RETRY_MS, LAST_RETRY_MS)
    /** Who answered at which address. */
    const known = new Map<string, string>()
    const warnings = new NowAndThen(WARNING_INTERVAL_MS)
    let wasConnected = false
    while (!signal.aborted) {
      // Taken first: a loss while this round runs must cut the wait after it short.
      const wake = this.#wake.signal
      const { connected, reason } = await this.#round(endpoint, known)
      if (signal.aborted) return
      if (connected && !wasConnected) logger.info({ address: endpointText(endpoint) }, 'bootstrap node connected')
      if (!connected && wasConnected)
        logger.warn({ address: endpointText(endpoint) }, 'bootstrap node lost; trying again')
      wasConnected = connected
      if (connected) backoff.reset()
      // A name that stands for this node alone needs no hurry either.
      const idle = connected || (known.size > 0 && [...known.values()].every((peerId) => peerId === self))
      if (!idle && warnings.due(performance.now()) !== undefined)
        logger.warn({ address: endpointText(endpoint), reason }, 'tracker or bootstrap peer not reached; trying on')
      await pause(idle ? RECHECK_MS : backoff.next(), AbortSignal.any([signal, ...(idle ? [wake] : [])]))
    }
  }

  /** One attempt on every address that is not connected. Connected when at least one is at the end; else with a reason. */
  async #round(
    endpoint: ControlEndpoint,
    known: Map<string, string>,
  ): Promise<{ connected: boolean; reason?: string | undefined }> {
    const { connect, isConnected, self, logger } = this.#init
    let addresses: Multiaddr[]
    try {
      addresses = shuffled(await resolveEndpoint(endpoint, this.#stop.signal))
    } catch (error) {
      const reason = messageOf(error)
      logger.debug({ address: endpointText(endpoint), reason }, 'bootstrap name not resolved')
      return { connected: [...known.values()].some((peerId) => peerId !== self && isConnected(peerId)), reason }
    }
    let connected = 0
    let reason: string | undefined
    const dials: Multiaddr[] = []
    for (const address of addresses) {
      const peerId = known.get(address.toString())
      if (peerId === self) continue
      if (peerId !== undefined && isConnected(peerId)) connected += 1
      else dials.push(address)
    }
    const wanted = dials.slice(0, Math.max(0, ENOUGH_PEERS - connected))
    const results = await Promise.all(
      wanted.map(async (address) => {
        const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)])
        try {
          const peerId = await connect(address, signal)
          known.set(address.toString(), peerId)
          return peerId !== self
        } catch (error) {
          known.delete(address.toString())
          reason = messageOf(error)
          logger.debug({ address: address.toString(), reason }, 'bootstrap node not reached')
          return false
        }
      }),
    )
    return { connected: connected > 0 || results.includes(true), reason }
  }
}

function endpointText({ host, port }: ControlEndpoint): string {
  return `${host}:${port}`
}

function shuffled<T>(values: T[]): T[] {
  return values
    .map((value) => ({ value, order: Math.random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ value }) => value)
}
