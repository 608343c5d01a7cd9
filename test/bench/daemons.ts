// The daemons that a bench measures: plain processes on loopback with a folder of their own, ended with the bench.
import { spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { freePorts } from '../support/ports.ts'
import { cpuSeconds } from '../support/process-cost.ts'
import { findProgram } from '../support/requirements.ts'
import { shoalCommand, writeConfig, writeSwarmKey, type Config } from '../support/shoal.ts'
import { until } from '../support/until.ts'

const HOST = '127.0.0.1'

/** A registry or a mirror endpoint under measurement. */
export interface Endpoint {
  name: string
  pid: number
  /** `host:port` */
  host: string
  /** `http://host:port` */
  url: string
}

export interface AgentEndpoint extends Endpoint {
  adminUrl: string
  p2pAddress: string
}

/** nginx: one folder of files over HTTP and HTTPS. */
export interface WebServer {
  url: string
  tlsUrl: string
  /** Of its worker and master so far. */
  cpuSeconds: () => number
}

/** All processes and files of one section. */
export class Daemons {
  readonly folder = mkdtempSync(join(tmpdir(), 'shoal-bench-'))
  readonly swarmKeyFile = writeSwarmKey(join(this.folder, 'swarm.key'))
  readonly #daemons: Daemon[] = []

  /** Debian's registry, as it comes. */
  async dockerRegistry(): Promise<Endpoint> {
    const [port = 0] = await freePorts(1)
    const config = this.#file('docker-registry', 'registry.yml')
    const lines = [
      'version: 0.1',
      `storage: {filesystem: {rootdirectory: ${join(this.folder, 'docker-registry', 'data')}}}`,
      `http: {addr: "${HOST}:${port}", relativeurls: true}`,
      'log: {level: error, accesslog: {disabled: true}}',
    ]
    writeFileSync(config, `${lines.join('\n')}\n`)
    const program = findProgram('docker-registry') ?? 'docker-registry'
    return await this.#start('docker-registry', [program, 'serve', config], port, `http://${HOST}:${port}/v2/`)
  }

  /** Shoal's own registry. */
  async shoalRegistry(name = 'registry', config: Config = {}): Promise<Endpoint> {
    const [port = 0] = await freePorts(1)
    const file = writeConfig(this.#file(name, 'registry.yaml'), {
      dataDirectory: join(this.folder, name, 'data'),
      host: HOST,
      port,
      logLevel: 'warn',
      ...config,
    })
    const command = shoalCommand('registry', '--config', file)
    return await this.#start('shoal registry', command, port, `http://${HOST}:${port}/readyz`)
  }

  /** An origin that makes one layer anew for every request; and its digest. */
  async generatedOrigin(layerBytes: number): Promise<Endpoint & { layer: string; repository: string; tag: string }> {
    const [port = 0] = await freePorts(1)
    const program = join(import.meta.dirname, '../support/generated-origin.ts')
    const [repository, tag] = ['big/app', 'v1']
    const options = { port, repository, tag, 'layer-bytes': layerBytes }
    const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
    const command = [process.execPath, '--disable-warning=ExperimentalWarning', program, ...flags]
    // It hashes the whole layer before it listens.
    const limitMs = 60_000 + layerBytes / 1e5
    const started = await this.#start('generated origin', command, port, `http://${HOST}:${port}/v2/`, limitMs)
    const said = this.#daemons.at(-1)?.log() ?? ''
    const { layer } = JSON.parse(said.slice(said.indexOf('{'))) as { layer: string }
    return { ...started, layer, repository, tag }
  }

  /** Debian's nginx with one worker, and a certificate that nobody knows. */
  async webServer(folder: string): Promise<WebServer> {
    const [port = 0, tlsPort = 0] = await freePorts(2)
    const config = this.#file('nginx', 'nginx.conf')
    const home = join(this.folder, 'nginx')
    const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (name) => `${name}_temp_path ${home}/${name};`,
    )
    const [key, certificate] = [join(home, 'key.pem'), join(home, 'certificate.pem')]
    const request = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    const made = spawnSync('openssl', [...request, '-keyout', key, '-out', certificate, '-subj', `/CN=${HOST}`])
    if (made.status !== 0) throw new Error(`openssl: ${made.stderr.toString() || made.error?.message}`)
    const lines = [
      `daemon off; user root; worker_processes 1; pid ${home}/pid; error_log ${home}/error.log;`,
      'events { worker_connections 64; }',
      `http { access_log off; sendfile on; ${paths.join(' ')} root ${folder};`,
      `server { listen ${HOST}:${port}; listen ${HOST}:${tlsPort} ssl; ssl_protocols TLSv1.3;`,
      `ssl_certificate ${certificate}; ssl_certificate_key ${key}; location = /ready { return 200; } } }`,
    ]
    writeFileSync(config, `${lines.join('\n')}\n`)
    const command = [findProgram('nginx') ?? 'nginx', '-c', config, '-e', `${home}/error.log`]
    const { pid, url } = await this.#start('nginx', command, port, `http://${HOST}:${port}/ready`)
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
    return {
      url,
      tlsUrl: `https://${HOST}:${tlsPort}`,
      cpuSeconds: () => [pid, ...children].reduce((sum, each) => sum + cpuSeconds(each), 0),
    }
  }

  async tracker(): Promise<Endpoint> {
    const [p2pPort = 0, httpPort = 0] = await freePorts(2)
    const config = writeConfig(this.#file('tracker', 'tracker.yaml'), {
      dataDirectory: join(this.folder, 'tracker', 'data'),
      swarmKeyFiles: [this.swarmKeyFile],
      p2pHost: HOST,
      p2pPort,
      httpHost: HOST,
      httpPort,
      logLevel: 'warn',
    })
    const command = shoalCommand('tracker', '--config', config)
    const started = await this.#start('tracker', command, p2pPort, `http://${HOST}:${httpPort}/readyz`)
    return { ...started, url: `http://${HOST}:${httpPort}` }
  }

  async agent(name: string, config: Config = {}): Promise<AgentEndpoint> {
    const [mirrorPort = 0, adminPort = 0, p2pPort = 0, transferPort = 0] = await freePorts(4)
    const file = writeConfig(this.#file(name, 'agent.yaml'), {
      dataDirectory: join(this.folder, name, 'data'),
      swarmKeyFiles: [this.swarmKeyFile],
      mirrorPort,
      adminPort,
      p2pHost: HOST,
      p2pPort,
      transferHost: HOST,
      transferPort,
      logLevel: 'warn',
      ...config,
    })
    const adminUrl = `http://${HOST}:${adminPort}`
    const command = shoalCommand('agent', '--config', file)
    const started = await this.#start(name, command, mirrorPort, `${adminUrl}/readyz`)
    return { ...started, adminUrl, p2pAddress: `${HOST}:${p2pPort}` }
  }

  /** Ends an agent and starts it anew on what it has, with the same configuration and other ports. */
  async restart({ name, pid }: AgentEndpoint, config: Config): Promise<AgentEndpoint> {
    await this.#daemons.find((daemon) => daemon.pid === pid)?.stop()
    return await this.agent(name, config)
  }

  async close(): Promise<void> {
    await Promise.all(this.#daemons.map((daemon) => daemon.stop()))
    rmSync(this.folder, { recursive: true, force: true })
  }

  #file(name: string, file: string): string {
    mkdirSync(join(this.folder, name), { recursive: true })
    return join(this.folder, name, file)
  }

  async #start(
    name: string,
    command: readonly string[],
    port: number,
    readyUrl: string,
    limitMs = 60_000,
  ): Promise<Endpoint> {
    const daemon = new Daemon({ name, command, logFile: join(this.folder, `${this.#daemons.length}.log`) })
    this.#daemons.push(daemon)
    const look = async () => !daemon.running || (await fetchAll(readyUrl)).status === 200
    await until(look, { what: `readiness of ${name}`, deadlineMs: limitMs })
    daemon.assertRunning()
    return { name, pid: daemon.pid, host: `${HOST}:${port}`, url: `http://${HOST}:${port}` }
  }
}

/**
 * Makes an agent pull an image for itself, as `shoal pull` does.
 * @throws Error that says what the agent said
 */
export async function pullByAgent({ name, adminUrl }: AgentEndpoint, image: string): Promise<void> {
  const body = Buffer.from(JSON.stringify({ image }))
  const headers = { 'content-type': 'application/json', 'content-length': body.length }
  const answer = await fetchAll(`${adminUrl}/api/v1/pulls`, { method: 'POST', headers, body: [body] })
  const last = answer.body.toString().trim().split('\n').at(-1) ?? ''
  if (!last.includes('"event":"done"')) throw new Error(`${name} did not pull ${image}: ${answer.status} ${last}`)
}

/** Puts a file into a folder that a web server hands out. */
export function layDown(folder: string, name: string, bytes: Iterable<Buffer>): void {
  mkdirSync(folder, { recursive: true })
  const file = openSync(join(folder, name), 'w')
  for (const piece of bytes) writeSync(file, piece)
  closeSync(file)
}

/** Runs a section with daemons of its own, which end whatever happens. */
export async function withDaemons<T>(run: (daemons: Daemons) => Promise<T>): Promise<T> {
  const daemons = new Daemons()
  try {
    return await run(daemons)
  } finally {
    await daemons.close()
  }
}
