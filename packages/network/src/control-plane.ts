// The control plane: the libp2p node, its DHT, the connections to the configured nodes and the control channels.
import type { Connection, Stream } from '@libp2p/interface'
import type { Digest } from '@shoal/oci'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import type { Logger } from 'pino'
import {
  advertisedHost,
  dialable,
  endpointMultiaddr,
  hostPort,
  MAX_TOLD_ADDRESSES,
  parseEndpoint,
  resolveEndpoint,
  type ControlEndpoint,
} from './addresses.ts'
import { Bootstrap } from './bootstrap.ts'
import { ChannelRegistry } from './channel-registry.ts'
import { contentIdOf } from './content-id.ts'
import { channelCounters, membershipFailures, registerControlGauges } from './control-metrics.ts'
import { messageOf, NetworkError } from './errors.ts'
import { findProviders } from './find-providers.ts'
import type { StreamLimits } from './framed-stream.ts'
import { InboundMeter, type InboundMeterInit } from './inbound-meter.ts'
import { createHost, routingTableOf, type CreatedHost, type Host } from './libp2p-host.ts'
import type { RedialPace } from './redial-pace.ts'
import { MAX_CONTROL_MESSAGE_BYTES, type NodeAddress } from './messages.ts'
import type { ControlPlaneOptions } from './control-options.ts'
import type { ControlChannel, ControlPlane } from './network.ts'
import { NowAndThen } from './pause.ts'
import { Providing } from './providing.ts'
import { Standing, type BanReason, type Offence } from './standing.ts'

export const CONTROL_PROTOCOL = '/shoal/control/1.0.0'

const MIB = 1024 * 1024
const STREAM_LIMITS: StreamLimits = {
  maxFrameBytes: MAX_CONTROL_MESSAGE_BYTES,
  maxQueuedBytes: 8 * MIB,
  drainTimeoutMs: 30_000,
  heartbeatMs: 15_000,
  silenceTimeoutMs: 60_000,
}
/** Control streams that one peer may have open: one in use, one on the way, one that is being replaced, one to spare. */
const STREAMS_PER_PEER = 4
/** Each blob is told to the DHT again after an hour, and no two of them sooner one after the other than this: 5000 take a day. */
const PROVIDE_AGAIN_MS = 3600_000
const PROVIDE_AGAIN_PAUSE_MS = 15_000
/**
 * Far above what downloads of many blobs say to one of their neighbours; what is more is read later. What a flooding peer says
 * of its chunks comes as late as the flood, and others wait for them.
 */
const INBOUND: Omit<InboundMeterInit, 'onFlood'> = { ratePerSecond: 1000, burst: 4000, floodAfterMs: 3000 }
const INBOUND_UNIT_BYTES = 1024

/** How often it is said that connections do not get in: strangers may try all day. */
const WARNING_INTERVAL_MS = 60_000

/** A control plane that is not started yet. @throws NetworkError for addresses that make no sense */
export async function createControlPlane(options: ControlPlaneOptions): Promise<Libp2pControlPlane> {
  return await Libp2pControlPlane.create(options)
}

export class Libp2pControlPlane implements ControlPlane {
  readonly peerId: string
  onChannel: (channel: ControlChannel) => void = () => undefined
  onPeerConnected: (peerId: string) => void = () => undefined
  onBan: (peerId: string, reason: BanReason) => void = () => undefined

  readonly #options: ControlPlaneOptions
  readonly #logger: Logger
  readonly #host: Host
  readonly #startHost: CreatedHost['start']
  readonly #redials: RedialPace
  readonly #channels: ChannelRegistry
  readonly #bootstrap: Bootstrap
  readonly #providing: Providing
  readonly #standing: Standing
  #isRunning = false

  static async create(options: ControlPlaneOptions): Promise<Libp2pControlPlane> {
    const standing = new Standing({
      logger: options.logger,
      metrics: options.metrics,
      onBan: (peerId, reason) => cutOff(peerId, reason),
    })
    let cutOff = (_peerId: string, _reason: BanReason): void => undefined
    const failures = options.metrics && membershipFailures(options.metrics)
    const refusals = {
      inbound: new NowAndThen(WARNING_INTERVAL_MS),
      outbound: new NowAndThen(WARNING_INTERVAL_MS),
    }
    const listenHost = options.host ?? '0.0.0.0'
    const created = await createHost({
      identity: options.identity,
      membership: {
        swarmKeys: options.swarmKeys,
        onFailure: (direction, reason, peer) => {
          failures?.inc({ direction, reason })
          const heldBack = refusals[direction].due(performance.now())
          if (heldBack === undefined) return
          options.logger.warn({ direction, reason, peer, heldBack }, 'a connection did not get in: other swarm keys?')
        },
      },
      listen: endpointMultiaddr(listenHost, options.port ?? 7701),
      announce: announced(options),
      maxConnections: options.maxConnections ?? 2000,
      isRefused: (peerId) => standing.isBanned(peerId),
    })
    const plane = new Libp2pControlPlane(options, created, standing)
    cutOff = (peerId, reason) => plane.#cutOff(peerId, reason)
    return plane
  }

  private constructor(options: ControlPlaneOptions, created: CreatedHost, standing: Standing) {
    const { host, start, redials } = created
    const endpoints = (options.bootstrap ?? []).map(parseEndpoint)
    this.peerId = options.identity.peerId
    this.#options = options
    this.#logger = options.logger
    this.#host = host
    this.#startHost = start
    this.#redials = redials
    this.#standing = standing
    const inbound = new InboundMeter({
      ...INBOUND,
      ...options.inbound,
      onFlood: (peerId) => standing.offend(peerId, 'flood', 'more control messages than are read'),
    })
    const counters = options.metrics && channelCounters(options.metrics)
    this.#channels = new ChannelRegistry({
      peerId: this.peerId,
      describe: () => ({ agent: options.agent, node: this.address }),
      dial: (peer, signal) => this.#openStream(peer, signal),
      isRefused: (peerId) => standing.isBanned(peerId),
      onChannel: (channel) => this.#opened(channel),
      streamLimits: { ...STREAM_LIMITS, ...options.timing?.stream },
      helloTimeoutMs: options.timing?.helloTimeoutMs ?? 10_000,
      openTimeoutMs: options.timing?.openTimeoutMs ?? 15_000,
      logger: options.logger,
      observer: {
        sent: (message, bytes) => {
          counters?.messages.inc({ direction: 'sent', type: message.type })
          counters?.bytes.inc({ direction: 'sent' }, bytes)
        },
        received: (bytes) => counters?.bytes.inc({ direction: 'received' }, bytes),
        meter: (peerId, frames, bytes) => {
          const heldMs = inbound.take(peerId, frames + bytes / INBOUND_UNIT_BYTES)
          if (heldMs > 0) counters?.held.inc()
          return heldMs
        },
        broken: (peerId, why) => standing.offend(peerId, 'protocol', why),
      },
    })
    this.#bootstrap = new Bootstrap({
      endpoints,
      connect: async (address, signal) => (await this.#connect([address], signal)).remotePeer.toString(),
      isConnected: (peerId) => this.#openConnection(peerId) !== undefined,
      self: this.peerId,
      logger: options.logger,
    })
    this.#providing = new Providing({
      provide: async (digest, signal) => {
        const id = contentIdOf(digest)
        if (id !== undefined) await host.contentRouting.provide(id, { signal })
      },
      cancel: async (digest) => {
        const id = contentIdOf(digest)
        if (id !== undefined) await host.contentRouting.cancelReprovide(id)
      },
      routingTableSize: () => this.routingTableSize(),
      logger: options.logger,
      repeatMs: PROVIDE_AGAIN_MS,
      repeatPauseMs: PROVIDE_AGAIN_PAUSE_MS,
    })
    if (options.metrics !== undefined) {
      registerControlGauges(options.metrics, {
        peers: () => this.connectedPeers().filter((peerId) => !this.#isTracker(peerId)).length,
        routingTable: () => this.routingTableSize(),
        provided: () => this.#providing.size,
        untold: () => this.#providing.untold,
        channels: () => this.#channels.all().length,
      })
    }
  }

  get address(): NodeAddress {
    const { transferPort: transfer = 0, advertiseHost, announce, host = '0.0.0.0' } = this.#options
    const transferPort = typeof transfer === 'function' ? transfer() : transfer
    const multiaddrs =
      announce !== undefined || advertiseHost === undefined
        ? this.#host.getMultiaddrs()
        : [endpointMultiaddr(advertiseHost, this.port, this.peerId)]
    return {
      peerId: this.peerId,
      multiaddrs: multiaddrs.slice(0, MAX_TOLD_ADDRESSES).map((address) => address.toString()),
      transfer: transferPort === 0 ? '' : hostPort(advertiseHost ?? advertisedHost(host), transferPort),
      zone: this.zone,
    }
  }

  get zone(): string {
    return this.#options.zone ?? ''
  }

  /** The TCP port that it listens on. */
  get port(): number {
    const { port = 7701 } = this.#options
    const [first] = this.#host.getMultiaddrs()
    return port !== 0 || first === undefined ? port : parseEndpoint(first.toString()).port
  }

  async start(): Promise<void> {
    await this.#host.handle(CONTROL_PROTOCOL, (stream, connection) => this.#accept(stream, connection), {
      maxInboundStreams: STREAMS_PER_PEER,
      maxOutboundStreams: STREAMS_PER_PEER,
    })
    this.#host.addEventListener('connection:close', () => this.#bootstrap.wake())
    this.#host.addEventListener('peer:connect', (event) => this.#connected(event.detail.toString()))
    routingTableOf(this.#host).addEventListener('peer:add', () => this.#providing.peerFound())
    this.#isRunning = true
    await this.#startHost()
    this.#providing.start()
    this.#bootstrap.start()
    const { peerId, multiaddrs, transfer } = this.address
    this.#logger.info({ peerId, multiaddrs, transfer }, 'control plane listens')
  }

  async stop(): Promise<void> {
    if (!this.#isRunning) return
    this.#isRunning = false
    await this.#bootstrap.stop()
    this.#providing.stop()
    await this.#channels.stop()
    await this.#host.stop()
  }

  async channel(peer: NodeAddress, signal: AbortSignal): Promise<ControlChannel> {
    this.#requireRunning()
    return await this.#channels.open(peer, signal)
  }

  async channelTo(address: string, signal: AbortSignal): Promise<ControlChannel> {
    this.#requireRunning()
    const endpoint = parseEndpoint(address)
    return await this.#channels.open(await this.#identify(endpoint, signal), signal)
  }

  openChannel(peerId: string): ControlChannel | undefined {
    return this.#channels.get(peerId)
  }

  channels(): ControlChannel[] {
    return this.#channels.all().filter((channel) => channel.hello.node.transfer !== '')
  }

  /** Trackers have no transfer plane. */
  #isTracker(peerId: string): boolean {
    return this.#channels.get(peerId)?.hello.node.transfer === ''
  }

  connectedPeers(): string[] {
    return this.#host.getPeers().map((peerId) => peerId.toString())
  }

  routingTableSize(): number {
    return routingTableOf(this.#host).size
  }

  async provide(digest: Digest, signal: AbortSignal): Promise<void> {
    this.#requireRunning()
    if (contentIdOf(digest) === undefined) return
    await this.#providing.add(digest, signal)
  }

  async stopProviding(digest: Digest): Promise<void> {
    await this.#providing.remove(digest)
  }

  async *findProviders(digest: Digest, signal: AbortSignal): AsyncIterable<NodeAddress> {
    this.#requireRunning()
    yield* findProviders(
      this.#host,
      digest,
      { isRefused: (peerId) => this.isBanned(peerId), logger: this.#logger },
      signal,
    )
  }

  sign(bytes: Uint8Array): Uint8Array {
    return this.#options.identity.sign(bytes)
  }

  isBanned(peerId: string): boolean {
    return this.#standing.isBanned(peerId)
  }

  ban(peerId: string, durationMs: number, reason: BanReason): void {
    this.#standing.ban(peerId, durationMs, reason)
  }

  offend(peerId: string, offence: Offence, why: string): void {
    this.#standing.offend(peerId, offence, why)
  }

  #cutOff(peerId: string, reason: BanReason): void {
    this.#channels.drop(peerId, 'banned')
    for (const connection of this.#host.getConnections()) {
      if (connection.remotePeer.toString() === peerId) connection.abort(new Error('banned'))
    }
    this.onBan(peerId, reason)
  }

  #requireRunning(): void {
    if (!this.#isRunning) throw new NetworkError('NOT_RUNNING', 'The control plane is not running')
  }

  async #accept(stream: Stream, connection: Connection): Promise<void> {
    await this.#channels.accept(stream, connection.remotePeer.toString())
  }

  #connected(peerId: string): void {
    try {
      this.onPeerConnected(peerId)
    } catch (error) {
      // In an event listener this would end the process.
      this.#logger.error({ err: error, peer: peerId }, 'the listener for new connections failed')
    }
  }

  #opened(channel: ControlChannel): void {
    const { agent, node } = channel.hello
    this.#logger.debug({ peer: channel.peerId, agent, zone: node.zone }, 'control channel open')
    this.onChannel(channel)
  }

  #openConnection(peerId: string): Connection | undefined {
    try {
      return this.#host.getConnections(peerIdFromString(peerId)).find(({ status }) => status === 'open')
    } catch {
      return undefined
    }
  }

  async #openStream(peer: NodeAddress, signal: AbortSignal): Promise<Stream> {
    const existing = this.#openConnection(peer.peerId)
    if (existing !== undefined) {
      try {
        return await existing.newStream(CONTROL_PROTOCOL, { signal, maxOutboundStreams: STREAMS_PER_PEER })
      } catch (error) {
        if (existing.status === 'open') {
          throw new NetworkError('REFUSED', `${peer.peerId} opens no control stream: ${messageOf(error)}`, {
            cause: error,
          })
        }
      }
    }
    const connection = await this.#connect(dialable(peer), signal, peer.peerId)
    try {
      return await connection.newStream(CONTROL_PROTOCOL, { signal, maxOutboundStreams: STREAMS_PER_PEER })
    } catch (error) {
      throw new NetworkError('REFUSED', `${peer.peerId} opens no control stream: ${messageOf(error)}`, { cause: error })
    }
  }

  /** Connects to whoever answers at an endpoint, or to the peer it names. */
  async #identify(endpoint: ControlEndpoint, signal: AbortSignal): Promise<NodeAddress> {
    const addresses = await resolveEndpoint(endpoint, signal)
    let failure: unknown
    for (const address of addresses) {
      try {
        const { remotePeer } = await this.#connect([address], signal)
        return { peerId: remotePeer.toString(), multiaddrs: [address.toString()], transfer: '', zone: '' }
      } catch (error) {
        failure = error
        if (signal.aborted) break
      }
    }
    if (failure instanceof NetworkError) throw failure
    throw new NetworkError('UNREACHABLE', `Nobody at ${hostPort(endpoint.host, endpoint.port)}`, { cause: failure })
  }

  async #connect(addresses: Multiaddr[], signal: AbortSignal, peerId?: string): Promise<Connection> {
    try {
      if (peerId !== undefined) this.#redials.allow(peerId)
      const target = addresses.length > 0 || peerId === undefined ? addresses : peerIdFromString(peerId)
      return await this.#host.dial(target, { signal })
    } catch (error) {
      if (signal.aborted) throw new NetworkError('ABORTED', 'The caller gave up', { cause: error })
      const where = peerId ?? addresses.map((address) => address.toString()).join(', ')
      throw new NetworkError('UNREACHABLE', `Cannot connect to ${where}: ${messageOf(error)}`, { cause: error })
    }
  }
}

function announced({ announce, advertiseHost, port = 7701 }: ControlPlaneOptions): Multiaddr[] {
  if (announce !== undefined) return announce.map((text) => multiaddr(text))
  // Before the start nobody knows which port 0 will be.
  return advertiseHost === undefined || port === 0 ? [] : [endpointMultiaddr(advertiseHost, port)]
}
