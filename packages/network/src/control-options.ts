// What a control plane is made with.
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import type { StreamLimits } from './framed-stream.ts'
import type { Identity } from './identity.ts'
import type { InboundMeterInit } from './inbound-meter.ts'
import type { SwarmKeys } from './swarm-key.ts'

export interface ControlPlaneOptions {
  identity: Identity
  swarmKeys: SwarmKeys
  /** What hello says of the program: `shoal-agent/0.1.0`. */
  agent: string
  logger: Logger
  /** @default '' */
  zone?: string
  /** @default 0.0.0.0 */
  host?: string
  /** 0 takes any free port. @default 7701 */
  port?: number
  /**
   * Port of this node's transfer plane; 0 for nodes without one (trackers). A function where the port is known only
   * once the transfer plane listens. @default 0
   */
  transferPort?: number | (() => number)
  /** Address or name that others reach this node by, on both planes. @default the address listened on */
  advertiseHost?: string
  /** Multiaddrs that others are told instead of what follows from `advertiseHost`. */
  announce?: string[]
  /** Trackers and static peers to stay connected to: `host:port` or multiaddrs. */
  bootstrap?: string[]
  /** @default 2000 */
  maxConnections?: number
  /**
   * What each peer may send, in units: a message is one, and each KiB one more. Who sends more is read more slowly, and is
   * banned when it goes on. @default 1000 a second, 4000 at once, banned after 3 s
   */
  inbound?: Partial<Omit<InboundMeterInit, 'onFlood'>>
  metrics?: Registry
  /** For tests; each has a default for production. */
  timing?: Partial<ControlTiming>
}

export interface ControlTiming {
  /** How long a peer may take to say hello. @default 10 s */
  helloTimeoutMs: number
  /** How long a channel may take to open. @default 15 s */
  openTimeoutMs: number
  stream: Partial<StreamLimits>
}
