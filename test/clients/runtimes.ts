// The container runtimes that Debian packages, each started privately at a node of the lab, without systemd: sockets,
// stores and configuration in a folder of their own, the network that of the node.
import { createHash, randomUUID } from 'node:crypto'
import { createReadStream, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { TestContext } from 'node:test'
import { execute, type ExecResult, type LabNode } from '../lab/node.ts'
import { Daemon } from '../support/daemon.ts'
import { findProgram } from '../support/requirements.ts'
import { until } from '../support/until.ts'

/** A runtime's command failed. The message holds what it said. */
export class RuntimeError extends Error {
  override name = 'RuntimeError'
}

export interface ImageName {
  /** As in `docker.io`. */
  registry: string
  repository: string
  tag: string
  digest: string
}

/** A client that pulls through the agent of the node it is started at. */
export interface Runtime {
  /** Pulls by tag or by digest, with nothing kept from earlier pulls. Throws RuntimeError. */
  pull: (image: ImageName, by: 'tag' | 'digest') => Promise<void>
  /** Starts the image pulled last and gives back what it printed, where this runtime can. */
  run?: () => Promise<string>
  close: () => Promise<void>
}

export interface RuntimeKind {
  name: string
  /** Programs it needs. */
  needs: string[]
  /** The registry it is asked for; `docker.io` where only that can be mirrored. */
  registry: string
  start: (node: LabNode) => Promise<Runtime>
}

/** Where a runtime runs: a node of the lab, or this machine. */
export type Place = Pick<LabNode, 'name' | 'folder' | 'exec'> & { link: Pick<LabNode['link'], 'command'> }

const PULL_LIMIT_MS = 180_000

/** This machine, with a temporary folder that is gone when the test is over. */
export function thisMachine(t: TestContext): Place {
  // Short, because the path of a socket may have 107 bytes at most.
  const folder = mkdtempSync(join(tmpdir(), 'sc'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return { name: 'this machine', folder, exec: execute, link: { command: (program) => [...program] } }
}

async function must(node: Place, program: string[], env?: NodeJS.ProcessEnv): Promise<ExecResult> {
  const result = await node.exec(program, {
    limitMs: PULL_LIMIT_MS,
    ...(env ? { env: { ...process.env, ...env } } : {}),
  })
  if (result.code !== 0) {
    // Progress bars are lines, too.
    const said = `${result.stdout}${result.stderr}`.split('\n').filter((line) => !/\|-*\||^elapsed: /.test(line))
    throw new RuntimeError(`${program.join(' ')} ended with ${result.code}:\n${said.slice(-12).join('\n')}`)
  }
  return result
}

function privateFolder(node: Place, name: string): string {
  // Short, because the path of a socket may have 107 bytes at most.
  const folder = join(node.folder, `${name}${randomUUID().slice(0, 4)}`)
  mkdirSync(folder, { recursive: true })
  return folder
}

function suffix({ tag, digest }: ImageName, by: 'tag' | 'digest'): string {
  return by === 'tag' ? `:${tag}` : `@${digest}`
}

export async function startContainerdDaemon(node: Place, folder: string): Promise<{ daemon: Daemon; socket: string }> {
  const socket = join(folder, 'c.sock')
  // No CRI: it needs a CNI set-up and is not what is asked here.
  const config = join(folder, 'containerd.toml')
  writeFileSync(config, 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
  const places = ['--root', join(folder, 'c/root'), '--state', join(folder, 'c/state'), '--address', socket]
  const daemon = new Daemon({
    name: `containerd of ${node.name}`,
    command: node.link.command([findProgram('containerd') ?? '', '--config', config, ...places]),
    logFile: join(folder, 'containerd.log'),
  })
  const look = async () => !daemon.running || (await node.exec(['ctr', '-a', socket, 'version'])).code === 0
  await until(look, { what: daemon.name })
  daemon.assertRunning()
  return { daemon, socket }
}

export interface DockerDaemon {
  docker: (...args: string[]) => Promise<ExecResult>
  /** Variables with which the docker command finds it. */
  env: NodeJS.ProcessEnv
  close: () => Promise<void>
}

/** A docker with a store of its own, without a network. */
export async function startDockerDaemon(node: Place, flags: readonly string[] = []): Promise<DockerDaemon> {
  const folder = privateFolder(node, 'd')
  const containerd = await startContainerdDaemon(node, folder)
  const socket = join(folder, 'd.sock')
  const config = join(folder, 'daemon.json')
  writeFileSync(config, '{}')
  const daemon = new Daemon({
    name: `dockerd of ${node.name}`,
    command: node.link.command([
      ...[findProgram('dockerd') ?? '', '--config-file', config, '--containerd', containerd.socket],
      ...['--data-root', join(folder, 'd/root'), '--exec-root', join(folder, 'd/exec')],
      ...['-H', `unix://${socket}`, '--pidfile', join(folder, 'd.pid')],
      ...['--iptables=false', '--bridge=none', '--storage-driver=vfs', '--max-download-attempts', '2', ...flags],
    ]),
    logFile: join(folder, 'dockerd.log'),
  })
  const env = { DOCKER_HOST: `unix://${socket}`, DOCKER_CONFIG: join(folder, 'cfg') }
  const docker = (...args: string[]): Promise<ExecResult> => must(node, ['docker', ...args], env)
  await until(async () => !daemon.running || docker('version'), { what: daemon.name })
  daemon.assertRunning()
  return {
    docker,
    env,
    async close() {
      await daemon.stop()
      await containerd.daemon.stop()
    },
  }
}

async function startDocker(
  node: LabNode,
  mirror: string | undefined,
  nameOf: (image: ImageName, by: 'tag' | 'digest') => string,
): Promise<Runtime> {
  const { docker, close } = await startDockerDaemon(node, mirror === undefined ? [] : ['--registry-mirror', mirror])
  let last = ''
  return {
    async pull(image, by) {
      const { stdout } = await docker('image', 'ls', '-aq', '--no-trunc')
      const ids = [...new Set(stdout.split('\n').filter((id) => id !== ''))]
      if (ids.length > 0) await docker('image', 'rm', '-f', ...ids)
      last = nameOf(image, by)
      await docker('pull', last)
    },
    async run() {
      return (await docker('run', '--rm', '--network=none', last)).stdout
    },
    close,
  }
}

async function startContainerd(node: LabNode, hostsFolder: string): Promise<Runtime> {
  const folder = privateFolder(node, 'k')
  const { daemon, socket } = await startContainerdDaemon(node, folder)
  const hosts = join(folder, 'hosts')
  mkdirSync(join(hosts, hostsFolder), { recursive: true })
  writeFileSync(
    join(hosts, hostsFolder, 'hosts.toml'),
    '[host."http://127.0.0.1:7700"]\n  capabilities = ["pull", "resolve"]\n',
  )
  const ctr = (...args: string[]): Promise<ExecResult> => must(node, ['ctr', '-a', socket, ...args])
  return {
    async pull(image, by) {
      const { stdout: references } = await ctr('images', 'ls', '-q')
      for (const reference of references.split('\n').filter((line) => line !== '')) {
        await ctr('images', 'rm', '--sync', reference)
      }
      const { stdout: content } = await ctr('content', 'ls', '-q')
      for (const digest of content.split('\n').filter((line) => line !== '')) await ctr('content', 'rm', digest)
      const name = `${image.registry}/${image.repository}${suffix(image, by)}`
      await ctr('images', 'pull', '--snapshotter', 'native', '--hosts-dir', hosts, name)
      const { stdout: check } = await ctr('images', 'check', '--snapshotter', 'native', '-q')
      if (!check.includes(name)) throw new RuntimeError(`${name} is not complete in containerd: ${check}`)
    },
    async close() {
      await daemon.stop()
    },
  }
}

/** What podman and skopeo read: each registry's mirror is the agent with the registry's name as a path. */
function writeContainersConfig(folder: string): { registries: string; policy: string } {
  const registries = join(folder, 'registries.conf')
  const mirrors = ['docker.io', 'registry.test'].map((host) =>
    [
      '[[registry]]',
      `prefix = "${host}"`,
      `location = "${host}"`,
      '[[registry.mirror]]',
      `location = "127.0.0.1:7700/${host}"`,
      'insecure = true',
    ].join('\n'),
  )
  writeFileSync(registries, ['unqualified-search-registries = ["docker.io"]', ...mirrors, ''].join('\n'))
  const policy = join(folder, 'policy.json')
  writeFileSync(policy, '{"default": [{"type": "insecureAcceptAnything"}]}')
  return { registries, policy }
}

function startPodman(node: LabNode): Runtime {
  const folder = privateFolder(node, 'p')
  const { registries, policy } = writeContainersConfig(folder)
  const storage = ['--root', join(folder, 'root'), '--runroot', join(folder, 'run'), '--storage-driver', 'vfs']
  const authFile = join(folder, 'auth.json')
  writeFileSync(authFile, '{}')
  const env = { CONTAINERS_REGISTRIES_CONF: registries, REGISTRY_AUTH_FILE: authFile }
  const podman = (...args: string[]): Promise<ExecResult> => must(node, ['podman', ...storage, ...args], env)
  return {
    async pull(image, by) {
      await podman('image', 'rm', '-a', '-f')
      const name = `${image.registry}/${image.repository}${suffix(image, by)}`
      await podman('pull', '-q', '--signature-policy', policy, name)
      await podman('image', 'inspect', name)
    },
    async close() {},
  }
}

async function fileDigest(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path, { highWaterMark: 1024 * 1024 }), hash)
  return hash.digest('hex')
}

function startSkopeo(node: LabNode): Runtime {
  const folder = privateFolder(node, 's')
  const { registries, policy } = writeContainersConfig(folder)
  const out = join(folder, 'out')
  return {
    async pull(image, by) {
      rmSync(out, { recursive: true, force: true })
      const name = `docker://${image.registry}/${image.repository}${suffix(image, by)}`
      await must(node, [
        'skopeo',
        '--registries-conf',
        registries,
        '--policy',
        policy,
        'copy',
        '-q',
        name,
        `dir:${out}`,
      ])
      // Blobs are files named by their digest.
      const blobs = readdirSync(out).filter((file) => /^[0-9a-f]{64}$/.test(file))
      if (blobs.length < 3) throw new RuntimeError(`${name} came with ${blobs.length} blobs`)
      for (const blob of blobs) {
        if ((await fileDigest(join(out, blob))) !== blob) throw new RuntimeError(`${blob} of ${name} is corrupt`)
      }
    },
    async close() {},
  }
}

/** Every client of the issue, in every way it is pointed at an agent. */
export const RUNTIMES: RuntimeKind[] = [
  {
    name: 'docker through registry-mirrors',
    needs: ['dockerd', 'docker', 'containerd', 'ctr'],
    registry: 'docker.io',
    start: (node) =>
      startDocker(node, 'http://127.0.0.1:7700', (image, by) => `${image.repository}${suffix(image, by)}`),
  },
  {
    name: 'docker by 127.0.0.1:7700/registry/repository',
    needs: ['dockerd', 'docker', 'containerd', 'ctr'],
    registry: 'registry.test',
    start: (node) =>
      startDocker(node, undefined, (image, by) => {
        return `127.0.0.1:7700/${image.registry}/${image.repository}${suffix(image, by)}`
      }),
  },
  {
    name: 'containerd with hosts.toml for docker.io',
    needs: ['containerd', 'ctr'],
    registry: 'docker.io',
    start: (node) => startContainerd(node, 'docker.io'),
  },
  {
    name: 'containerd with hosts.toml for _default',
    needs: ['containerd', 'ctr'],
    registry: 'registry.test',
    start: (node) => startContainerd(node, '_default'),
  },
  { name: 'podman', needs: ['podman'], registry: 'registry.test', start: async (node) => startPodman(node) },
  { name: 'skopeo', needs: ['skopeo'], registry: 'docker.io', start: async (node) => startSkopeo(node) },
]
