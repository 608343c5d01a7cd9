// A node that is well, with real daemons, and the ways in which one can be ill.
import assert from 'node:assert/strict'
import { chmod, mkdir, mkdtemp, rm, statfs, writeFile } from 'node:fs/promises'
import http from 'node:http'
import https from 'node:https'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { generateSwarmKey } from '@shoal/network'
import { makeCertificates } from '@shoal/upstream/testing-certificates'
import { DAEMONS } from '../daemon/modules.ts'
import { DemoCluster } from '../demo/cluster.ts'
import { freePorts } from '../demo/ports.ts'
import { placeOf } from '../doctor/network-checks.ts'
import { runCommand } from '../program.ts'
import { image, layoutFiles, makeImage, tarOf } from './image/testing.ts'

const COMMAND = fileURLToPath(new URL('../../bin/shoal.ts', import.meta.url))

interface Finding {
  subject: string
  verdict: string
  message: string
}

async function doctor(...args: string[]): Promise<{ code: number; findings: Finding[] }> {
  let out = ''
  const code = await runCommand(['doctor', '--json', ...args], { out: (text) => (out += text), err: () => undefined })
  return { code, findings: JSON.parse(out) as Finding[] }
}

/** The verdicts of one subject with their messages. */
function about(findings: Finding[], subject: string): string {
  const found = findings.filter((finding) => finding.subject === subject)
  return found.map(({ verdict, message }) => `${verdict}: ${message}`).join('\n')
}

async function folderOf(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-doctor-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

async function listening(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return (server.address() as AddressInfo).port
}

/** A configuration whose agent does not run. */
async function nodeAt(folder: string, keys: Record<string, unknown> = {}): Promise<string> {
  const [mirrorPort, adminPort, p2pPort, transferPort] = await freePorts(4)
  const key = join(folder, 'swarm.key')
  await writeFile(key, `${generateSwarmKey()}\n`, { mode: 0o600 })
  const config = { dataDirectory: folder, swarmKeyFiles: [key], mirrorPort, adminPort, p2pPort, transferPort, ...keys }
  await writeFile(join(folder, 'agent.yaml'), JSON.stringify(config))
  return join(folder, 'agent.yaml')
}

test('a node that is well', async (t) => {
  const cluster = await DemoCluster.create(['--disable-warning=ExperimentalWarning', COMMAND])
  t.after(() => cluster.close())
  await cluster.start(1, AbortSignal.timeout(120_000))
  const archive = join(cluster.directory, 'image.tar')
  await writeFile(archive, await tarOf(layoutFiles([makeImage()])))
  const name = `127.0.0.1:${cluster.registryPort}/team/app:1.0`
  assert.equal((await image('load', archive, name)).code, 0)

  const root = join(cluster.directory, 'root')
  const args = ['--config', join(cluster.directory, 'agent-1.yaml'), '--root', root, '--image', name]
  const { code, findings } = await doctor(...args, '--tracker-http-port', String(cluster.trackerHttpPort))
  const shown = JSON.stringify(findings, null, 2)
  assert.equal(code, 0, shown)
  for (const subject of ['config', 'swarm key', 'agent', 'trackers', 'clock', 'pull']) {
    assert.match(about(findings, subject), /^ok: /, shown)
  }
  assert.match(about(findings, 'agent'), /ready, up for/)
  assert.match(about(findings, 'trackers'), /is connected/)
  assert.match(about(findings, 'pull'), /team\/app:1.0 in .*, from (origin|swarm|store)/)
  const gone = await doctor('--config', join(cluster.directory, 'agent-1.yaml'), '--image', `${name}-none`)
  assert.equal(gone.code, 1)
  assert.match(about(gone.findings, 'pull'), /is answered 404/)
})

test('a configuration that the agent would refuse is told, and nothing is looked at by guess', async (t) => {
  const folder = await folderOf(t)
  const file = await nodeAt(folder, { storeQouta: '1GiB' })
  const address = join(folder, 'address.yaml')
  await writeFile(address, JSON.stringify({ swarmKeyFiles: ['swarm.key'], trackers: ['tracker:99999'] }))
  for (const place of [file, join(folder, 'none.yaml'), address]) {
    const { code, findings } = await doctor('--config', place)
    assert.equal(code, 1)
    assert.match(about(findings, 'config'), /^fail: .*(storeQouta|none\.yaml|tracker:99999)/)
    for (const subject of ['swarm key', 'agent', 'pull']) assert.match(about(findings, subject), /^skip: /)
  }
})

test('an agent that is down, a key for everybody to read, a port that is taken, no tracker', async (t) => {
  const folder = await folderOf(t)
  const taken = await listening(t, createServer())
  const file = await nodeAt(folder, { transferHost: '127.0.0.1', transferPort: taken })
  await chmod(join(folder, 'swarm.key'), 0o644)
  const { code, findings } = await doctor('--config', file)
  assert.equal(code, 1)
  assert.match(about(findings, 'config'), /^ok/)
  assert.match(about(findings, 'swarm key'), /^fail: .*chmod 600/)
  assert.match(about(findings, 'agent'), /^fail: no agent answers .*Start it: shoal agent/)
  assert.match(about(findings, 'ports'), new RegExp(`^fail: port ${taken} is taken: .* or set transferPort$`))
  assert.match(about(findings, 'trackers'), /^warn: none configured/)
})

test('files that the agent could not use, and those that only this user may not read', async (t) => {
  const folder = await folderOf(t)
  const file = await nodeAt(folder, { adminTokenFile: join(folder, 'none') })
  const { findings } = await doctor('--config', file)
  assert.match(about(findings, 'config'), /^fail: .*adminTokenFile .*ENOENT.*$/)
  assert.match(about(findings, 'swarm key'), /^ok/)
  // Told as a check tells it: root, who may run this, reads everything.
  const mistake = { key: 'adminTokenFile', message: 'cannot be used: EACCES', isForbidden: true }
  t.mock.method(DAEMONS.agent, 'checks', () => Promise.resolve([{ keys: [], readsFiles: true, find: () => [mistake] }]))
  const other = await doctor('--config', file)
  t.mock.restoreAll()
  assert.match(about(other.findings, 'config'), /^warn: .*adminTokenFile cannot be used: EACCES: .*agent's user$/)
})

test('an agent with TLS, a token and client certificates is well; who may not ask it is told so', async (t) => {
  const folder = await folderOf(t)
  const { server, folder: certificates } = await makeCertificates(t)
  const at = (name: string): string => join(certificates, name)
  const token = 'token-of-the-operator-0123456789'
  const status = { uptimeMs: 1000, peersConnected: 3, store: {}, trackers: [], downloads: [] }
  const endpoint = async (answer: http.RequestListener): Promise<number> => {
    const own = https.createServer({ ...server, requestCert: true, rejectUnauthorized: true }, answer)
    t.after(() => own.closeAllConnections())
    return await listening(t, own)
  }
  const adminPort = await endpoint(({ headers }, response) => {
    response.writeHead(headers.authorization === `Bearer ${token}` ? 200 : 401).end(JSON.stringify(status))
  })
  const mirrorPort = await endpoint((_request, response) => response.end('{}'))
  await writeFile(join(folder, 'chain.pem'), server.cert + server.ca)
  await writeFile(join(folder, 'token'), token, { mode: 0o600 })
  await writeFile(join(folder, 'wrong'), token.toUpperCase(), { mode: 0o600 })
  const [tlsCertFile, tlsKeyFile, tlsClientCaFile] = [join(folder, 'chain.pem'), at('server.key'), at('ca.pem')]
  const file = await nodeAt(folder, {
    adminPort,
    adminTokenFile: join(folder, 'token'),
    adminTlsCertFile: tlsCertFile,
    adminTlsKeyFile: tlsKeyFile,
    adminTlsClientCaFile: tlsClientCaFile,
    mirrorHost: 'localhost',
    mirrorPort,
    mirrorTlsCertFile: tlsCertFile,
    mirrorTlsKeyFile: tlsKeyFile,
    mirrorTlsClientCaFile: tlsClientCaFile,
  })
  const certificate = ['--tls-cert', at('client.pem'), '--tls-key', at('client.key')]

  const well = await doctor('--config', file, ...certificate)
  assert.equal(well.code, 0, JSON.stringify(well.findings, null, 2))
  assert.match(about(well.findings, 'agent'), /^ok: ready/)
  assert.match(about(well.findings, 'pull'), new RegExp(`^ok: https://localhost:${mirrorPort}/v2/ answers`))
  assert.equal(about(well.findings, 'ports'), '')

  const wrong = await doctor('--config', file, ...certificate, '--token-file', join(folder, 'wrong'))
  assert.match(about(wrong.findings, 'agent'), /^fail: the agent at \S+ answered 401/)
  assert.match(about(wrong.findings, 'pull'), /^ok/)
  const unknown = await doctor('--config', file)
  assert.match(about(unknown.findings, 'agent'), /^fail: .*cannot be talked to \(.*--tls-cert/)
  assert.match(about(unknown.findings, 'pull'), /^fail: .*--tls-cert/)
  for (const { findings } of [wrong, unknown]) {
    assert.doesNotMatch(about(findings, 'agent'), /Start it|is "shoal agent" running/)
    assert.equal(about(findings, 'ports'), '')
  }
})

test('runtimes that pull from where the agent has its mirror endpoint', async (t) => {
  const folder = await folderOf(t)
  const program = join(folder, 'containerd')
  await writeFile(program, '', { mode: 0o755 })
  const before = process.env['PATH']
  process.env['PATH'] = `${folder}:${before ?? ''}`
  t.after(() => (process.env['PATH'] = before))
  const tls = { mirrorTlsCertFile: join(folder, 'x.pem'), mirrorTlsKeyFile: join(folder, 'x.key') }
  const root = join(folder, 'root')
  const main = join(root, 'etc/containerd/config.toml')
  await mkdir(join(root, 'etc/containerd'), { recursive: true })
  const registry = '[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = '
  await writeFile(main, `${registry}"/etc/containerd/certs.d"\n`)
  const quiet = { out: () => undefined, err: () => undefined }
  const cases = [
    {
      keys: { mirrorHost: '127.0.0.2', mirrorPort: 7700 },
      right: 'http://127.0.0.2:7700',
      wrong: 'http://127.0.0.1:7700',
    },
    { keys: { mirrorPort: 7700, ...tls }, right: 'https://127.0.0.1:7700', wrong: 'http://127.0.0.1:7700' },
    {
      keys: { mirrorHost: 'localhost', mirrorPort: 7700 },
      right: 'http://127.0.0.1:7700',
      wrong: 'http://127.0.0.1:7701',
    },
  ]
  for (const { keys, right, wrong } of cases) {
    const file = await nodeAt(folder, keys)
    const told = async (mirror: string): Promise<string> => {
      assert.equal(await runCommand(['configure', 'containerd', '--root', root, '--mirror', mirror], quiet), 0)
      return about((await doctor('--config', file, '--root', root)).findings, 'runtimes')
    }
    assert.match(await told(right), /^ok: containerd pulls/m)
    assert.match(await told(wrong), /^warn: containerd does not pull .* run: shoal configure containerd --mirror http/m)
    await told(right)
  }
  const file = await nodeAt(folder, { mirrorHost: 'localhost', mirrorPort: 7700 })
  const withMain = async (text: string): Promise<string> => {
    await writeFile(main, text)
    return about((await doctor('--config', file, '--root', root)).findings, 'runtimes')
  }
  assert.match(await withMain(''), /^warn: containerd: CRI .* only with config_path = "\S+" in the registry section/m)
  const old = `${registry}""\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\n`
  assert.match(await withMain(old), /^warn: .* config_path = "\S+" and no registry\.mirrors or registry\.configs in/m)
})

test('trackers that do not answer, and a clock that is wrong', async (t) => {
  const folder = await folderOf(t)
  const late = http.createServer((_request, response) => {
    response.writeHead(200, { date: new Date(Date.now() - 3_600_000).toUTCString() }).end()
  })
  const port = await listening(t, late)
  t.after(() => late.closeAllConnections())
  const [closed = 0] = await freePorts(1)
  const file = await nodeAt(folder, { trackers: [`127.0.0.1:${closed}`, `/ip4/127.0.0.1/tcp/${port}`] })
  const { findings } = await doctor('--config', file, '--tracker-http-port', String(port))
  assert.match(about(findings, 'trackers'), /^fail: .*cannot be reached \(ECONNREFUSED\).*\nok: .*is reachable$/)
  assert.match(about(findings, 'clock'), /^warn: 1 h 0 m ahead of that of 127.0.0.1/)
  assert.match(about(findings, 'ports'), /^ok/)
})

test('the clock of a tracker with TLS is compared, with the authority that signed its certificate', async (t) => {
  const folder = await folderOf(t)
  const { server, folder: certificates } = await makeCertificates(t)
  const tracker = https.createServer(server, (_request, response) => response.end())
  const port = await listening(t, tracker)
  t.after(() => tracker.closeAllConnections())
  const file = await nodeAt(folder, { trackers: [`127.0.0.1:${port}`] })
  const args = ['--config', file, '--tracker-http-port', String(port)]
  const known = await doctor(...args, '--tls-ca', join(certificates, 'ca.pem'))
  assert.match(about(known.findings, 'clock'), /^ok: agrees with that of 127\.0\.0\.1/)
  const unknown = await doctor(...args)
  assert.match(about(unknown.findings, 'clock'), /^skip: .* answers neither http:\/\/ .* nor https:\/\/ .*--tls-ca/)
})

test('a quota that the disk cannot meet, and none at all, are warned of', async (t) => {
  const folder = await folderOf(t)
  const { bavail, bsize } = await statfs(folder)
  const storedBytes = 21 * 1024 ** 2
  const status = { uptimeMs: 1000, peersConnected: 0, store: { storedBytes }, trackers: [], downloads: [] }
  const agent = http.createServer((_request, response) => response.end(JSON.stringify(status)))
  const adminPort = await listening(t, agent)
  t.after(() => agent.closeAllConnections())
  const disk = async (keys: Record<string, unknown>): Promise<string> =>
    about((await doctor('--config', await nodeAt(folder, keys))).findings, 'disk')
  const storeQuota = bavail * bsize * 2
  assert.match(
    await disk({ adminPort, storeQuota }),
    /^warn: only .* free at .*; storeQuota is .*, 21\.0 MiB of it used: the disk fills before/,
  )
  assert.match(await disk({ storeQuota }), /^ok: .*; storeQuota is .*, less what the store holds$/)
  assert.match(await disk({ adminPort, storeQuota: 0 }), /^warn: .*storeQuota is 0, which is no limit/)
  assert.match(await disk({ adminPort, storeQuota: '1MiB' }), /^ok: .* free at \S+$/)
  status.store.storedBytes = storeQuota
  assert.match(await disk({ adminPort, storeQuota }), /^ok: .*; storeQuota is .* of it used$/)
})

test('where a tracker is, in every way to write it', () => {
  assert.deepEqual(placeOf('tracker.example:7710'), { host: 'tracker.example', port: 7710 })
  assert.deepEqual(placeOf('[::1]:7710'), { host: '::1', port: 7710 })
  assert.deepEqual(placeOf('/dns4/t.example/tcp/1/p2p/12D3'), { host: 't.example', port: 1 })
  assert.equal(placeOf('/unix/x'), undefined)
})

test('lines for people, and wrong words', async (t) => {
  const file = await nodeAt(await folderOf(t))
  let out = ''
  const code = await runCommand(['doctor', '--config', file], { out: (text) => (out += text), err: () => undefined })
  assert.equal(code, 1)
  assert.match(out, /^ok {4}config {5}\S+agent.yaml is valid$/m)
  assert.match(out, /^FAIL {2}agent {6}no agent answers/m)
  assert.equal(await runCommand(['doctor', '--image', 'a/B'], { out: () => undefined, err: () => undefined }), 2)
})
