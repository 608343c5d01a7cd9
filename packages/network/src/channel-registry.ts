// Keeps at most one control channel for each peer, whoever opens it.
//
// Two nodes often want to talk to each other at the same moment. Both then have a stream of their own on the way, and
// both must drop the same one of the two. The rule: once hello has been sent on it, the stream opened by the node with
// the lower id wins. Before that the other's stream is taken, so that a node that can only be reached one way is
// reached. Nothing but hello is ever sent on a stream that loses, so nothing is lost with it.
//
// Hellos are numbered. A stream whose hello is older than that of the open channel lost long ago and comes late; one
// that is newer, or of another instance of the peer, means that the peer has lost the channel we think is open.
import type { Stream } from '@libp2p/interface'
import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { StreamChannel, type ChannelObserver } from './control-channel.ts'
import { messageOf, NetworkError } from './errors.ts'
import type { StreamLimits } from './framed-stream.ts'
import { CONTROL_VERSION, type Hello, type NodeAddress } from './messages.ts'
import { pause } from './pause.ts'

export interface RegistryInit {
  peerId: string
  /** What this node says of itself. */
  describe: () => Pick<Hello, 'agent' | 'node'>
  /** Opens a control stream. @throws NetworkError */
  dial: (peer: NodeAddress, signal: AbortSignal) => Promise<Stream>
  isRefused: (peerId: string) => boolean
  onChannel: (channel: StreamChannel) => void
  streamLimits: StreamLimits
  /** How long the other side may take to say hello. */
  helloTimeoutMs: number
  /** How long a channel may take to open, with everything. */
  openTimeoutMs: number
  logger: Logger
  observer: ChannelObserver
}

interface Opening {
  settled: Promise<StreamChannel>
  /** From now on the rule of the lower id holds. */
  helloSent: boolean
  /** Settles the opening with a channel that came from the other side. */
  adopt: (channel: StreamChannel) => void
  adopted: Promise<StreamChannel>
}

const ATTEMPTS = 4
const RETRY_DELAY_MS = 100

export class ChannelRegistry {
  readonly #init: RegistryInit
  readonly #instance = randomBytes(8).toString('hex')
  readonly #open = new Map<string, StreamChannel>()
  readonly #openings = new Map<string, Opening>()
  readonly #greeting = new Set<StreamChannel>()
  readonly #stopped = new AbortController()
  #sequence = 0

  constructor(init: RegistryInit) {
    this.#init = init
  }

  get(peerId: string): StreamChannel | undefined {
    const channel = this.#open.get(peerId)
    return channel?.isOpen === true ? channel : undefined
  }

  all(): StreamChannel[] {
    return [...this.#open.values()].filter((channel) => channel.isOpen)
  }

  /** The channel to a peer; several callers share one opening. @throws NetworkError */
  async open(peer: NodeAddress, signal: AbortSignal): Promise<StreamChannel> {
    if (signal.aborted) throw new NetworkError('ABORTED', 'The caller gave up', { cause: signal.reason })
    if (this.#stopped.signal.aborted) throw new NetworkError('NOT_RUNNING', 'The control plane is not running')
    const { peerId } = peer
    if (peerId === this.#init.peerId) throw new NetworkError('REFUSED', 'A node has no channel to itself')
    if (this.#init.isRefused(peerId)) throw new NetworkError('REFUSED', `${peerId} is banned here for now`)
    const open = this.get(peerId)
    if (open !== undefined) return open
    return await unlessAborted((this.#openings.get(peerId) ?? this.#begin(peer)).settled, signal)
  }

  /** Takes a stream that a peer opened. Never throws: what is wrong with the stream ends the stream. */
  async accept(stream: Stream, peerId: string): Promise<void> {
    const { isRefused, helloTimeoutMs, logger } = this.#init
    const channel = this.#wrap(stream, peerId)
    try {
      if (isRefused(peerId)) throw new NetworkError('REFUSED', `${peerId} is banned here for now`)
      const hello = await channel.hear(this.#deadline(helloTimeoutMs))
      const open = this.get(peerId)
      if (open?.hello.instance === hello.instance && (hello.sequence ?? 0) < (open?.hello.sequence ?? 0)) {
        throw new NetworkError('REFUSED', 'an older stream than the open one')
      }
      const opening = this.#openings.get(peerId)
      if (opening?.helloSent === true && this.#init.peerId < peerId) {
        throw new NetworkError('REFUSED', 'the own stream wins')
      }
      channel.send(this.#hello())
      this.#publish(channel)
      opening?.adopt(channel)
    } catch (error) {
      logger.debug({ peer: peerId, reason: messageOf(error) }, 'control stream not taken')
      channel.abort(messageOf(error))
    } finally {
      this.#greeting.delete(channel)
    }
  }

  /** Ends the channel to a peer at once. */
  drop(peerId: string, reason: string): void {
    this.#open.get(peerId)?.abort(reason)
  }

  /** Closes all channels; what is queued on them is still sent. */
  async stop(): Promise<void> {
    this.#stopped.abort(new NetworkError('NOT_RUNNING', 'The control plane is stopping'))
    for (const channel of this.#greeting) channel.abort('stopping')
    await Promise.all([...this.#open.values()].map((channel) => channel.close()))
    await Promise.allSettled([...this.#openings.values()].map((opening) => opening.settled))
  }

  #begin(peer: NodeAddress): Opening {
    const { promise, resolve } = Promise.withResolvers<StreamChannel>()
    const opening: Opening = { settled: promise, helloSent: false, adopt: resolve, adopted: promise }
    opening.settled = Promise.race([this.#attempts(peer, opening), promise]).finally(() => {
      this.#openings.delete(peer.peerId)
    })
    // Whoever asked may have gone.
    opening.settled.catch(() => undefined)
    this.#openings.set(peer.peerId, opening)
    return opening
  }

  async #attempts(peer: NodeAddress, opening: Opening): Promise<StreamChannel> {
    const deadline = this.#deadline(this.#init.openTimeoutMs)
    let isAdopted = false
    opening.adopted.then(
      () => (isAdopted = true),
      () => undefined,
    )
    let failure: unknown
    for (let attempt = 0; attempt < ATTEMPTS && !isAdopted; attempt++) {
      try {
        return await this.#attempt(peer, opening, deadline)
      } catch (error) {
        failure = error
        opening.helloSent = false
        // Only a stream that was refused after it had been opened is worth another try: the peer's own is on its way,
        // or its connection to us was a dead one.
        if (deadline.aborted || (error instanceof NetworkError && error.code === 'UNREACHABLE')) break
        await pause(RETRY_DELAY_MS * 2 ** attempt * (0.5 + Math.random()), deadline)
      }
    }
    const open = this.get(peer.peerId)
    if (open !== undefined) return open
    if (failure instanceof NetworkError) throw failure
    throw new NetworkError('REFUSED', `No control channel to ${peer.peerId}: ${messageOf(failure)}`, { cause: failure })
  }

  async #attempt(peer: NodeAddress, opening: Opening, deadline: AbortSignal): Promise<StreamChannel> {
    const stream = await this.#init.dial(peer, deadline)
    const taken = this.get(peer.peerId)
    if (taken !== undefined) {
      stream.abort(new Error('not needed'))
      return taken
    }
    const channel = this.#wrap(stream, peer.peerId)
    try {
      opening.helloSent = true
      channel.send(this.#hello())
      const heard = channel.hear(AbortSignal.any([deadline, AbortSignal.timeout(this.#init.helloTimeoutMs)]))
      const adopted = await Promise.race([heard.then(() => undefined), opening.adopted])
      if (adopted !== undefined) {
        heard.catch(() => undefined)
        channel.abort("the peer's stream wins")
        return adopted
      }
      if (this.#init.isRefused(peer.peerId)) throw new NetworkError('REFUSED', `${peer.peerId} is banned here for now`)
      this.#publish(channel)
      return channel
    } catch (error) {
      channel.abort(messageOf(error))
      throw error
    } finally {
      this.#greeting.delete(channel)
    }
  }

  #wrap(stream: Stream, peerId: string): StreamChannel {
    const { streamLimits, logger, observer } = this.#init
    const channel = new StreamChannel(stream, peerId, streamLimits, logger, observer)
    this.#greeting.add(channel)
    return channel
  }

  #hello(): Hello {
    this.#sequence += 1
    return {
      type: 'hello',
      version: CONTROL_VERSION,
      instance: this.#instance,
      sequence: this.#sequence,
      ...this.#init.describe(),
    }
  }

  #publish(channel: StreamChannel): void {
    const { peerId } = channel
    const before = this.#open.get(peerId)
    this.#open.set(peerId, channel)
    before?.abort('replaced by a newer channel of the same peer')
    channel.closed
      .then(() => {
        if (this.#open.get(peerId) === channel) this.#open.delete(peerId)
      })
      .catch(() => undefined)
    try {
      this.#init.onChannel(channel)
    } catch (error) {
      this.#init.logger.error({ err: error, peer: peerId }, 'the listener for new control channels failed')
    }
  }

  #deadline(ms: number): AbortSignal {
    return AbortSignal.any([this.#stopped.signal, AbortSignal.timeout(ms)])
  }
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = (): void => reject(new NetworkError('ABORTED', 'The caller gave up', { cause: signal.reason }))
  signal.addEventListener('abort', onAbort)
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
