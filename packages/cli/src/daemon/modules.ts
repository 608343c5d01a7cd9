// The three daemons: which schema, which factory. Loaded only when asked for, so that `shoal pull` starts at once.
import type { AgentConfig } from '@shoal/agent/config'
import type { ConfigCheck } from '@shoal/oci'
import type { RegistryConfig } from '@shoal/origin/config'
import type { TrackerConfig } from '@shoal/tracker/config'
import type { Logger } from 'pino'
import type { KeySchema } from '../config/keys.ts'
import { VERSION } from '../version.ts'
import { endpointCheck } from './endpoints.ts'
import { portCheck } from './port-check.ts'
import type { Daemon } from './run.ts'

export type DaemonName = 'agent' | 'tracker' | 'registry'

export type DaemonCheck = ConfigCheck<Record<string, unknown>>

export interface DaemonModule {
  summary: string
  /** So that a daemon which cannot run with its configuration says so before it starts, and is not started again. */
  checks: () => Promise<DaemonCheck[]>
  create: (values: Record<string, unknown>, logger: Logger) => Promise<Daemon>
  /** How long closing may take, ms. */
  closeLimitMs: (values: Record<string, unknown>) => number
}

/** Beyond the time that a daemon gives its own work to finish. */
const CLOSE_SLACK_MS = 5_000

export const DAEMONS: Record<DaemonName, DaemonModule> = {
  agent: {
    summary: 'run the daemon of a node: mirror endpoint, store, peer',
    checks: async () => [
      ...((await import('@shoal/agent/config-mistakes')).agentChecks as DaemonCheck[]),
      endpointCheck('trackers'),
      endpointCheck('bootstrapPeers'),
      portCheck(['mirror', 'admin', 'p2p', 'transfer']),
    ],
    create: async (values, logger) => {
      const { createAgent } = await import('@shoal/agent')
      return createAgent(values as AgentConfig, { logger, version: VERSION })
    },
    closeLimitMs: (values) => (values as AgentConfig).shutdownGrace + CLOSE_SLACK_MS,
  },
  tracker: {
    summary: 'run a tracker: it knows who has and who wants what',
    checks: async () => [
      ...((await import('@shoal/tracker/config-mistakes')).trackerChecks as DaemonCheck[]),
      endpointCheck('bootstrapPeers'),
      portCheck(['p2p', 'http']),
    ],
    create: async (values, logger) => {
      const { createTracker } = await import('@shoal/tracker')
      return createTracker(values as TrackerConfig, { logger, version: VERSION })
    },
    closeLimitMs: () => 10_000,
  },
  registry: {
    summary: 'run the embedded registry: the origin for images of your own',
    checks: async () => (await import('@shoal/origin/config-mistakes')).registryChecks as DaemonCheck[],
    create: async (values, logger) => {
      const { createOrigin } = await import('@shoal/origin')
      // The registry listens as soon as it is made.
      let origin: Pick<Daemon, 'close'> | undefined
      return {
        start: async () => {
          origin = await createOrigin({ ...(values as RegistryConfig), logger })
        },
        close: async () => await origin?.close(),
      }
    },
    closeLimitMs: (values) => (values as RegistryConfig).shutdownGrace + CLOSE_SLACK_MS,
  },
}

/** The schemas of all daemons: small, they load none of the daemons. */
export async function daemonSchemas(): Promise<Record<DaemonName, KeySchema>> {
  const [{ agentConfigSchema }, { trackerConfigSchema }, { registryConfigSchema }] = await Promise.all([
    import('@shoal/agent/config'),
    import('@shoal/tracker/config'),
    import('@shoal/origin/config'),
  ])
  return { agent: agentConfigSchema, tracker: trackerConfigSchema, registry: registryConfigSchema }
}
