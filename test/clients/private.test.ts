// A private image through agents, with each real client in each way that it is pointed at an agent: who has the right
// login gets it, from another agent; who has a wrong one, none, or no right to it does not, wherever the bytes are.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { test, type TestContext } from 'node:test'
import { execute, type ExecResult } from '../lab/node.ts'
import { MiB, tarLayer } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { writeSwarmKey } from '../support/shoal.ts'
import { startContainerdDaemon, startDockerDaemon, thisMachine, type DockerDaemon, type Place } from './runtimes.ts'
import {
  assertNoSecrets,
  received,
  startAccountsRegistry,
  startTwoAgents,
  withSecret,
  type AccountsRegistry,
  type LocalAgent,
} from './shoal-daemons.ts'

const PASSWORDS = { ann: 'correct horse battery', bob: 'another staple' }
const LAYER_BYTES = 3 * MiB
/** Credentials as `user:password`. */
const LOGINS = {
  right: `ann:${PASSWORDS.ann}`,
  wrong: 'ann:not her password',
  stranger: `bob:${PASSWORDS.bob}`,
  none: undefined,
} as const
type Login = keyof typeof LOGINS

interface Scene {
  place: Place
  /** Variables for clients that would go to the registry by themselves. */
  noWayOut: NodeJS.ProcessEnv
  registry: AccountsRegistry
  /** Takes the pushes. */
  a: LocalAgent
  /** Has nothing at first. */
  b: LocalAgent
  docker: DockerDaemon
}

/** A client, pointed at the second agent in one way. */
interface Way {
  name: string
  /** Pulls what follows the name of the registry: `team/app:1`, `team/app@sha256:…`. */
  pull: (image: string, login: Login) => Promise<ExecResult>
  /** Throws away what it has pulled. */
  forget: () => Promise<unknown>
  /** What it says to who has no login, and to who has a wrong one. */
  says: { none: RegExp; wrong: RegExp }
}

const base64 = (text: string): string => Buffer.from(text).toString('base64')

/** A folder with docker's `config.json`, or podman's `auth.json`, for one host. */
function authFolder({ place }: Scene, host: string, credentials: string | undefined): string {
  const folder = mkdtempSync(join(place.folder, 'auth'))
  const auths = credentials === undefined ? {} : { [host]: { auth: base64(credentials) } }
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ auths }))
  return folder
}

/** A proxy that lets nobody out of this machine, and says so at once. */
async function startClosedDoor(t: TestContext): Promise<NodeJS.ProcessEnv> {
  const server = createServer((_request, response) => response.writeHead(403).end())
  server.on('connect', (_request, socket: Duplex) => socket.end('HTTP/1.1 403 Forbidden\r\n\r\n'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { port } = server.address() as AddressInfo
  return { HTTPS_PROXY: `http://127.0.0.1:${port}`, NO_PROXY: '127.0.0.1' }
}

function run({ noWayOut }: Scene, program: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<ExecResult> {
  return execute(program, { env: { ...process.env, ...noWayOut, ...env } })
}

/** As written by people: the registry's name, then the user's. */
function bound(login: Login): string | undefined {
  const credentials = LOGINS[login]
  return credentials === undefined ? undefined : `registry.test/${credentials}`
}

function dockerWays(scene: Scene): Way[] {
  const { docker, b } = scene
  const pullWith = (host: string, credentials: string | undefined, name: string) =>
    run(scene, ['docker', '--config', authFolder(scene, host, credentials), 'pull', name], docker.env)
  const forget = async () => {
    const { stdout } = await docker.docker('image', 'ls', '-aq')
    const ids = new Set(stdout.split('\n').filter((id) => id !== ''))
    if (ids.size > 0) await docker.docker('image', 'rm', '-f', ...ids)
  }
  return [
    {
      name: 'docker by 127.0.0.1:7700/registry/repository',
      pull: (image, login) => pullWith(b.mirror, bound(login), `${b.mirror}/registry.test/${image}`),
      forget,
      says: { none: /docker login -u registry\.test\/USER/, wrong: /refuses the credentials/ },
    },
    {
      name: 'docker by registry-mirrors, with its login at Docker Hub',
      pull: (image, login) => pullWith('https://index.docker.io/v1/', LOGINS[login], image),
      forget,
      // It goes to Docker Hub after the mirror, and tells what happened there.
      says: { none: /registry-1\.docker\.io/, wrong: /registry-1\.docker\.io/ },
    },
  ]
}

async function containerdWays(scene: Scene): Promise<{ ways: Way[]; close: () => Promise<unknown> }> {
  const { place, b } = scene
  const folder = join(place.folder, 'k')
  const hosts = join(folder, 'hosts')
  mkdirSync(join(hosts, '_default'), { recursive: true })
  const hostsToml = `[host."http://${b.mirror}"]\n  capabilities = ["pull", "resolve"]\n`
  writeFileSync(join(hosts, '_default/hosts.toml'), hostsToml)
  const { daemon, socket } = await startContainerdDaemon(place, folder)
  const ctr = (...args: string[]) => run(scene, ['ctr', '-a', socket, ...args])
  const pullWith = (login: Login, ...args: string[]) => {
    const credentials = LOGINS[login]
    const user = credentials === undefined ? [] : ['--user', credentials]
    return ctr('images', 'pull', '--snapshotter', 'native', ...user, ...args)
  }
  const forget = async () => {
    for (const [kind, ...remove] of [
      ['images', 'rm', '--sync'],
      ['content', 'rm'],
    ] as const) {
      const { stdout } = await ctr(kind, 'ls', '-q')
      for (const name of stdout.split('\n').filter((line) => line !== '')) await ctr(kind, ...remove, name)
    }
  }
  const says = { none: /authorization failed/, wrong: /authorization failed|failed to authorize/ }
  const ways = [
    {
      name: 'containerd with hosts.toml',
      pull: (image: string, login: Login) => pullWith(login, '--hosts-dir', hosts, `registry.test/${image}`),
      forget,
      says,
    },
    {
      name: 'containerd by 127.0.0.1:7700/registry/repository',
      pull: (image: string, login: Login) => pullWith(login, '--plain-http', `${b.mirror}/registry.test/${image}`),
      forget,
      says,
    },
  ]
  return { ways, close: () => daemon.stop() }
}

function podmanWays(scene: Scene): Way[] {
  const { place, b } = scene
  const policy = join(place.folder, 'policy.json')
  writeFileSync(policy, '{"default": [{"type": "insecureAcceptAnything"}]}')
  const registries = join(place.folder, 'registries.conf')
  const mirror = `[[registry.mirror]]\nlocation = "${b.mirror}/registry.test"\ninsecure = true\n`
  writeFileSync(registries, `[[registry]]\nprefix = "registry.test"\nlocation = "registry.test"\n${mirror}`)
  const storage = ['--root', join(place.folder, 'p'), '--runroot', join(place.folder, 'r'), '--storage-driver', 'vfs']
  const podman = (login: Login, ...args: string[]) =>
    run(scene, ['podman', ...storage, ...args], {
      CONTAINERS_REGISTRIES_CONF: registries,
      REGISTRY_AUTH_FILE: join(authFolder(scene, `${b.mirror}/registry.test`, LOGINS[login]), 'config.json'),
    })
  const out = join(place.folder, 'out')
  const says = { none: /registry\.test wants a login/, wrong: /refuses the credentials/ }
  return [
    {
      name: 'podman with registries.conf',
      pull: (image, login) => podman(login, 'pull', '-q', '--signature-policy', policy, `registry.test/${image}`),
      forget: () => podman('none', 'image', 'rm', '-a', '-f'),
      says,
    },
    {
      name: 'skopeo by 127.0.0.1:7700/registry/repository',
      pull: (image, login) => {
        const from = `docker://${b.mirror}/registry.test/${image}`
        const credentials = LOGINS[login]
        const creds = credentials === undefined ? ['--src-no-creds'] : ['--src-creds', credentials]
        rmSync(out, { recursive: true, force: true })
        return run(scene, [
          'skopeo',
          '--policy',
          policy,
          'copy',
          '-q',
          '--src-tls-verify=false',
          ...creds,
          from,
          `dir:${out}`,
        ])
      },
      forget: () => Promise.resolve(),
      says,
    },
  ]
}

/** A new image in the daemon, under this name. */
async function makeImage({ place, docker }: Scene, name: string): Promise<void> {
  const tar = join(place.folder, 'root.tar')
  const layer = tarLayer([{ path: 'file', content: randomBytes(LAYER_BYTES) }])
  writeFileSync(tar, Buffer.concat([...layer.blob.bytes()]))
  await docker.docker('import', tar, name)
}

/** Pushes in ann's name through the first agent; gives back the digest. */
async function push(scene: Scene, repository: string): Promise<string> {
  const name = `${scene.a.mirror}/registry.test/${repository}:1`
  await makeImage(scene, name)
  const config = authFolder(scene, scene.a.mirror, bound('right'))
  const { code, stdout, stderr } = await run(scene, ['docker', '--config', config, 'push', name], scene.docker.env)
  assert.equal(code, 0, stderr)
  await scene.docker.docker('image', 'rm', '-f', name)
  return /digest: (sha256:[0-9a-f]{64})/.exec(stdout)?.[1] ?? ''
}

async function assertRefused(pulling: Promise<ExecResult>, says: RegExp, what: string): Promise<void> {
  const { code, stdout, stderr } = await pulling
  assert.notEqual(code, 0, `${what} was not refused: ${stdout}`)
  assert.match(`${stdout}${stderr}`, says, what)
}

async function pullInEveryCase({ b }: Scene, way: Way, repository: string, digest: string): Promise<void> {
  const image = `${repository}:1`
  const before = await received(b, 'peer')
  await assertRefused(way.pull(image, 'none'), way.says.none, 'on a peer, without a login')
  await assertRefused(way.pull(image, 'wrong'), way.says.wrong, 'on a peer, with a wrong login')
  await assertRefused(way.pull(image, 'stranger'), /./, "on a peer, with another's login")
  assert.equal(await received(b, 'peer'), before, 'the agent fetched nothing for them')

  const { code, stderr } = await way.pull(image, 'right')
  assert.equal(code, 0, stderr)
  const bytes = (await received(b, 'peer')) - before
  assert.ok(bytes >= LAYER_BYTES, `${bytes} bytes came from the other agent`)
  assert.equal(await received(b, 'origin'), 0)
  await way.forget()

  await assertRefused(way.pull(image, 'none'), way.says.none, 'in the store, without a login')
  await assertRefused(way.pull(`${repository}@${digest}`, 'wrong'), way.says.wrong, 'in the store, by digest')
  await assertRefused(way.pull(`shared/base@${digest}`, 'none'), /./, 'under the name of what is for everyone')
  await assertRefused(way.pull(`shared/base@${digest}`, 'right'), /./, 'under a name where it is not')
  const again = await way.pull(`${repository}@${digest}`, 'right')
  assert.equal(again.code, 0, again.stderr)
  await way.forget()
}

async function logInWithDocker(scene: Scene): Promise<void> {
  const { docker, registry, a } = scene
  const login = (user: string, password: string) =>
    withSecret(password, ['docker', 'login', '-u', user, '--password-stdin', a.mirror], docker.env)
  const spelled = registry.host.replace(':', '__')
  const byName = `${a.mirror}/registry.test/team/login:1`
  const byPort = `${a.mirror}/${spelled}/team/login:2`
  await makeImage(scene, byName)
  await docker.docker('tag', byName, byPort)
  await assert.rejects(docker.docker('push', byName), /docker login -u registry\.test\/USER 127/)
  const refused = await login('registry.test/ann', LOGINS.wrong)
  assert.notEqual(refused.code, 0)
  assert.match(refused.stderr, /registry\.test refuses the credentials/)
  assert.equal((await login('registry.test/ann', PASSWORDS.ann)).code, 0)
  await docker.docker('push', byName)
  await assert.rejects(docker.docker('push', byPort), /The login at this agent is for registry\.test/)
  assert.equal((await login(`${spelled}/ann`, PASSWORDS.ann)).code, 0)
  await docker.docker('push', byPort)
  await assert.rejects(docker.docker('push', byName), new RegExp(`The login at this agent is for ${registry.host}`))
  assert.equal((await login('ann', PASSWORDS.ann)).code, 0)
  await docker.docker('push', byName)
  await docker.docker('logout', a.mirror)
  await docker.docker('image', 'rm', '-f', byName, byPort)
}

test('a private image through agents: for who may read it, and for nobody else', async (t) => {
  if (!requires(t, 'root', 'dockerd', 'docker', 'containerd', 'ctr', 'podman', 'skopeo')) return
  const machine = thisMachine(t)
  const noWayOut = await startClosedDoor(t)
  const env = Object.entries(noWayOut).map(([name, value]) => `${name}=${value}`)
  const place: Place = { ...machine, link: { command: (program) => ['env', ...env, ...program] } }
  const registry = await startAccountsRegistry(t, join(place.folder, 'registry'), PASSWORDS, [
    { repositories: ['shared/**'], users: ['anonymous'], actions: ['pull'] },
    { repositories: ['team/**', 'shared/**'], users: ['ann'], actions: ['pull', 'push'] },
  ])
  const origin = { endpoint: `http://${registry.host}`, plainHttp: true }
  const [a, b] = await startTwoAgents(t, place.folder, {
    swarmKeyFiles: [writeSwarmKey(join(place.folder, 'swarm.key'))],
    registries: { 'registry.test': origin, 'docker.io': origin },
    logLevel: 'trace',
  })
  const docker = await startDockerDaemon(place, ['--registry-mirror', `http://${b.mirror}`])
  const scene: Scene = { place, noWayOut, registry, a, b, docker }
  const containerd = await containerdWays(scene)
  try {
    await t.test('docker logs in at an agent and pushes', () => logInWithDocker(scene))
    await push(scene, 'shared/base')
    const ways = [...dockerWays(scene), ...containerd.ways, ...podmanWays(scene)]
    for (const [i, way] of ways.entries()) {
      await t.test(way.name, async () => {
        const repository = `team/app-${i}`
        await pullInEveryCase(scene, way, repository, await push(scene, repository))
      })
    }
    await t.test('what is for everyone is for those without a login, and with any', async () => {
      for (const way of ways) {
        for (const login of ['none', 'wrong'] as const) {
          const { code, stderr } = await way.pull('shared/base:1', login)
          assert.equal(code, 0, `${way.name}, login: ${login}: ${stderr}`)
        }
      }
    })
    await t.test('no password is in a log', () => assertNoSecrets([registry.log(), a.log(), b.log()], PASSWORDS))
  } finally {
    await containerd.close()
    await docker.close()
  }
})
