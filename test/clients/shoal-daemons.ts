// What tests of private content have in common: a registry with accounts and agents in front of it on this machine, and
// programs that are given a password as a person would.
import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { execute, type ExecResult } from '../lab/node.ts'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { metricSum, parseMetrics } from '../support/metrics.ts'
import { freePorts } from '../support/ports.ts'
import { shoalCommand, writeConfig, type Config } from '../support/shoal.ts'
import { until } from '../support/until.ts'

/** Runs a program with a secret on its standard input. */
export function withSecret(
  secret: string,
  program: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<ExecResult> {
  const script = 'printf %s "$SECRET" | "$@"'
  return execute(['sh', '-c', script, 'sh', ...program], { env: { ...process.env, ...env, SECRET: secret } })
}

async function startShoal(
  t: TestContext,
  kind: string,
  folder: string,
  readyUrl: string,
  config: Config,
): Promise<Daemon> {
  mkdirSync(folder, { recursive: true })
  const file = writeConfig(join(folder, 'config.yaml'), { dataDirectory: join(folder, 'data'), ...config })
  const command = shoalCommand(kind, '--config', file)
  const daemon = new Daemon({ name: folder, command, logFile: join(folder, 'log') })
  t.after(() => daemon.stop())
  await until(async () => !daemon.running || (await fetchAll(readyUrl)).status === 200, { what: `readiness: ${kind}` })
  daemon.assertRunning()
  return daemon
}

export interface AccountsRegistry {
  /** Host and port. */
  host: string
  log: () => string
}

/** A registry that knows these users by their passwords. */
export async function startAccountsRegistry(
  t: TestContext,
  folder: string,
  passwords: Readonly<Record<string, string>>,
  accessRules: readonly Config[],
): Promise<AccountsRegistry> {
  mkdirSync(folder)
  const [port = 0] = await freePorts(1)
  const htpasswdFile = join(folder, 'accounts')
  for (const [user, password] of Object.entries(passwords)) {
    const command = ['registry', 'user', 'add', user, '--htpasswd-file', htpasswdFile, '--password-stdin']
    const { code, stderr } = await withSecret(password, shoalCommand(...command))
    assert.equal(code, 0, stderr)
  }
  const daemon = await startShoal(t, 'registry', folder, `http://127.0.0.1:${port}/readyz`, {
    ...{ host: '127.0.0.1', port, logLevel: 'trace', htpasswdFile, accessRules },
  })
  return { host: `127.0.0.1:${port}`, log: () => daemon.log() }
}

interface Status {
  peersConnected: number
  address: { multiaddrs: string[] }
}

export interface LocalAgent {
  /** Host and port of the mirror endpoint. */
  mirror: string
  log: () => string
  status: () => Promise<Status>
  metric: (name: string, labels: Record<string, string>) => Promise<number>
}

export async function startAgent(t: TestContext, folder: string, more: Config): Promise<LocalAgent> {
  const [mirrorPort = 0, adminPort = 0, p2pPort = 0, transferPort = 0] = await freePorts(4)
  const admin = `http://127.0.0.1:${adminPort}`
  const daemon = await startShoal(t, 'agent', folder, `${admin}/readyz`, {
    ...{ mirrorPort, adminPort, p2pPort, transferPort, p2pHost: '127.0.0.1', transferHost: '127.0.0.1' },
    ...more,
  })
  return {
    mirror: `127.0.0.1:${mirrorPort}`,
    log: () => daemon.log(),
    status: async () => JSON.parse((await fetchAll(`${admin}/api/v1/status`)).body.toString()) as Status,
    metric: async (name, labels) =>
      metricSum(parseMetrics((await fetchAll(`${admin}/metrics`)).body.toString()), name, labels),
  }
}

/** Content bytes that an agent took from its peers, or from the registry. */
export function received(agent: LocalAgent, source: 'peer' | 'origin'): Promise<number> {
  return agent.metric('shoal_chunk_bytes_received_total', { source })
}

/** Two agents of one cluster, which have found each other. */
export async function startTwoAgents(
  t: TestContext,
  folder: string,
  config: Config,
): Promise<[a: LocalAgent, b: LocalAgent]> {
  const a = await startAgent(t, join(folder, 'a'), config)
  const bootstrapPeers = (await a.status()).address.multiaddrs
  const b = await startAgent(t, join(folder, 'b'), { ...config, bootstrapPeers })
  await until(async () => (await b.status()).peersConnected > 0, { what: 'the agents know each other' })
  return [a, b]
}

/** No log may hold a password, as it is or as it goes over the wire. */
export function assertNoSecrets(logs: readonly string[], passwords: Readonly<Record<string, string>>): void {
  for (const [user, password] of Object.entries(passwords)) {
    const basic = Buffer.from(`${user}:${password}`).toString('base64')
    for (const secret of [password, basic]) {
      for (const log of logs) assert.ok(!log.includes(secret), `a secret of ${user} is in a log`)
    }
  }
}
