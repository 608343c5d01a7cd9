// The registry endpoints that must all answer as the OCI distribution specification says: Debian's registry (which
// proves the tests themselves), the embedded one, and an agent's mirror endpoint in front of it.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Daemon } from '../support/daemon.ts'
import { fetchAll, type Answer, type Ask } from '../support/http.ts'
import { freePorts } from '../support/ports.ts'
import { findProgram } from '../support/requirements.ts'
import { shoalCommand, writeConfig, writeSwarmKey } from '../support/shoal.ts'
import { until } from '../support/until.ts'

export interface Endpoint {
  name: string
  /** Where tests put content: `http://host:port`. */
  pushBase: string
  /** The endpoint under test: `http://host:port`, and what stands there before the name of a repository. */
  base: string
  namePrefix: string
  /** Whether the Referrers API of version 1.1 is there. */
  referrers: boolean
  /** A request to the endpoint under test; the path begins with `/v2/`. */
  ask: (path: string, ask?: Ask) => Promise<Answer>
  close: () => Promise<void>
}

const KINDS = ['docker-registry', 'shoal registry', 'shoal agent', 'shoal agent, by path'] as const
export type EndpointKind = (typeof KINDS)[number]
export const ENDPOINT_KINDS: readonly EndpointKind[] = KINDS

/** Programs that are needed beside Shoal. */
export function needsOf(kind: EndpointKind): string[] {
  return kind === 'docker-registry' ? ['docker-registry'] : []
}

async function startDaemon(name: string, command: string[], folder: string, readyUrl: string): Promise<Daemon> {
  const daemon = new Daemon({ name, command, logFile: join(folder, `${name}.log`) })
  const look = async () => !daemon.running || (await fetchAll(readyUrl)).status === 200
  await until(look, { what: `readiness of ${name}` })
  daemon.assertRunning()
  return daemon
}

/** The version check as clients do it: with the token that everyone gets. */
async function ping(base: string, options: Ask = {}): Promise<Answer> {
  const { headers } = await fetchAll(`${base}/v2/`, options)
  const realm = /^Bearer realm="([^"]+)"/.exec(headers['www-authenticate'] ?? '')?.[1]
  if (realm === undefined) throw new Error(`${base}/v2/ does not say where there are tokens`)
  const { token } = JSON.parse((await fetchAll(realm)).body.toString()) as { token: string }
  return fetchAll(`${base}/v2/`, { ...options, headers: { ...options.headers, authorization: `Bearer ${token}` } })
}

export async function startEndpoint(kind: EndpointKind): Promise<Endpoint> {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-conformance-'))
  const daemons: Daemon[] = []
  const close = async (): Promise<void> => {
    for (const daemon of daemons.reverse()) await daemon.stop()
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  }
  try {
    const [originPort = 0, mirrorPort = 0, p2pPort = 0, transferPort = 0, adminPort = 0] = await freePorts(5)
    const pushBase = `http://127.0.0.1:${originPort}`
    const direct = (path: string, ask?: Ask): Promise<Answer> => fetchAll(`${pushBase}${path}`, ask)
    if (kind === 'docker-registry') {
      const config = join(folder, 'registry.yml')
      const storage = `storage: {filesystem: {rootdirectory: ${join(folder, 'data')}}, delete: {enabled: true}}`
      const http = `http: {addr: "127.0.0.1:${originPort}", relativeurls: true}`
      writeFileSync(config, ['version: 0.1', storage, http, 'log: {level: error}', ''].join('\n'))
      const command = [findProgram('docker-registry') ?? '', 'serve', config]
      daemons.push(await startDaemon('docker-registry', command, folder, `${pushBase}/v2/`))
      return { name: kind, pushBase, base: pushBase, namePrefix: '', referrers: false, ask: direct, close }
    }
    const registry = writeConfig(join(folder, 'registry.yaml'), {
      dataDirectory: join(folder, 'registry'),
      host: '127.0.0.1',
      port: originPort,
    })
    const command = shoalCommand('registry', '--config', registry)
    daemons.push(await startDaemon('registry', command, folder, `${pushBase}/readyz`))
    if (kind === 'shoal registry') {
      return { name: kind, pushBase, base: pushBase, namePrefix: '', referrers: true, ask: direct, close }
    }

    const agent = writeConfig(join(folder, 'agent.yaml'), {
      dataDirectory: join(folder, 'agent'),
      swarmKeyFiles: [writeSwarmKey(join(folder, 'swarm.key'))],
      ...{ mirrorPort, p2pPort, transferPort, adminPort, p2pHost: '127.0.0.1', transferHost: '127.0.0.1' },
      announceAddresses: ['127.0.0.1'],
      registries: { 'registry.test': { endpoint: pushBase, plainHttp: true } },
      tagCacheTtl: 0,
      // Pulls alone are tried here; pushes through an agent have tests of their own.
      allowPush: false,
    })
    const started = startDaemon(
      'agent',
      shoalCommand('agent', '--config', agent),
      folder,
      `http://127.0.0.1:${adminPort}/readyz`,
    )
    daemons.push(await started)
    const mirror = `http://127.0.0.1:${mirrorPort}`
    const ask = (path: string, options?: Ask): Promise<Answer> => {
      if (path === '/v2/') return ping(mirror, options)
      if (kind === 'shoal agent, by path') {
        return fetchAll(`${mirror}${path.replace('/v2/', '/v2/registry.test/')}`, options)
      }
      return fetchAll(`${mirror}${path}${path.includes('?') ? '&' : '?'}ns=registry.test`, options)
    }
    const namePrefix = kind === 'shoal agent, by path' ? 'registry.test/' : ''
    return { name: kind, pushBase, base: mirror, namePrefix, referrers: true, ask, close }
  } catch (error) {
    await close()
    throw error
  }
}
