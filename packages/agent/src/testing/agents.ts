// Whole agents on the loopback, with every port taken from the free ones.
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { pino } from 'pino'
import { createAgent, type Agent } from '../agent.ts'
import { agentConfig, type AgentConfig } from '../config.ts'

export const silent = pino({ level: process.env['SHOAL_TEST_LOG'] ?? 'silent' })

export interface Answer {
  status: number
  headers: Headers
  body: Buffer
  /** Code of the error, where it is one. */
  code: string | undefined
}

export class TestAgent {
  readonly agent: Agent
  readonly directory: string
  #closed: Promise<void> | undefined

  constructor(agent: Agent, directory: string) {
    this.agent = agent
    this.directory = directory
  }

  close(): Promise<void> {
    this.#closed ??= this.agent.close()
    return this.#closed
  }

  /** A request to the mirror endpoint. */
  async ask(path: string, options: RequestInit = {}): Promise<Answer> {
    const response = await fetch(`${this.agent.urls.mirror}${path}`, { redirect: 'manual', ...options })
    const body = Buffer.from(await response.arrayBuffer())
    const isError = response.status >= 400 && body.length > 0
    const code = isError ? (JSON.parse(body.toString()) as { errors: { code: string }[] }).errors[0]?.code : undefined
    return { status: response.status, headers: response.headers, body, code }
  }

  async status(): Promise<{
    downloads: unknown[]
    address: { transfer: string; multiaddrs: string[] }
    peersConnected: number
    store: { storedBytes: number }
  }> {
    return (await (await fetch(`${this.agent.urls.admin}/api/v1/status`)).json()) as Awaited<
      ReturnType<TestAgent['status']>
    >
  }

  /** Clients have the end as soon as the digest has matched; a blob gets its place on the disk a moment later. */
  async idle(): Promise<void> {
    while ((await this.metric('shoal_downloads_active')) > 0) await new Promise((resolve) => setImmediate(resolve))
  }

  /** Value of a metric, all its label sets together that contain `labels`. */
  async metric(name: string, labels = ''): Promise<number> {
    const text = await (await fetch(`${this.agent.urls.admin}/metrics`)).text()
    const lines = text
      .split('\n')
      .filter((line) => (line.startsWith(`${name}{`) || line.startsWith(`${name} `)) && line.includes(labels))
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
  }

  /** Events of a pull through the admin API. */
  async pull(image: string, more: object = {}): Promise<Record<string, unknown>[]> {
    const response = await fetch(`${this.agent.urls.admin}/api/v1/pulls`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ image, ...more }),
    })
    const text = await response.text()
    return text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>)
  }
}

/** An agent that runs until the test is over. */
export async function startAgent(t: TestContext, config: Partial<AgentConfig> = {}): Promise<TestAgent> {
  const directory = config.dataDirectory ?? (await mkdtemp(join(tmpdir(), 'shoal-agent-')))
  const agents: TestAgent[] = []
  // Before the agent is made: some tests want that to fail.
  t.after(async () => {
    for (const agent of agents) await agent.close()
    await rm(directory, { recursive: true, force: true })
  })
  const keyFile = join(directory, 'swarm.key')
  await writeFile(keyFile, `shoal-swarm-key-v1:${Buffer.alloc(32, 3).toString('base64')}\n`)
  await chmod(keyFile, 0o600)
  const local = {
    mirrorPort: 0,
    adminPort: 0,
    p2pHost: '127.0.0.1',
    p2pPort: 0,
    transferHost: '127.0.0.1',
    transferPort: 0,
  }
  const settings = { swarmKeyFiles: [keyFile], dataDirectory: directory, shutdownGrace: 20_000, tagCacheTtl: 0 }
  const agent = await createAgent(agentConfig({ ...settings, ...local, ...config }), { logger: silent })
  const started = new TestAgent(agent, directory)
  agents.push(started)
  await agent.start()
  return started
}
