// Secrets are planted everywhere an agent gets them from, and looked for everywhere it says something: its log at the most
// talkative level, metrics, errors, the status page, and the arguments that every user of the machine can read.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { freePorts } from '../support/ports.ts'
import { shoalCommand, writeConfig, writeSwarmKey } from '../support/shoal.ts'
import { until, within } from '../support/until.ts'

const PLANTED = {
  'password of a registry': 'planted-registry-password-1',
  'password in a file': 'planted-file-password-2',
  'password in the docker config': 'planted-docker-password-3',
  'token of the token service': 'planted-bearer-token-4',
  "client's password": 'planted-client-password-5',
  "client's token": 'planted-client-token-6',
  'password of the proxy': 'planted-proxy-password-7',
}

const MANIFEST = JSON.stringify({
  schemaVersion: 2,
  mediaType: 'application/vnd.oci.image.manifest.v1+json',
  config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: `sha256:${'a'.repeat(64)}`, size: 2 },
  layers: [],
})

/** A registry with a token service, that knows one manifest and fails at everything else, loudly. */
async function startRegistry(t: TestContext): Promise<{ url: string; seen: Set<string> }> {
  const seen = new Set<string>()
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    const { authorization = '' } = request.headers
    const [scheme = '', value = ''] = authorization.split(' ')
    seen.add(scheme === 'Basic' ? Buffer.from(value, 'base64').toString() : value)
    const path = request.url ?? ''
    if (path.startsWith('/token')) {
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ token: PLANTED['token of the token service'], expires_in: 300 }))
    } else if (scheme === '') {
      const realm = `http://${request.headers.host}/token`
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}",service="test"` }).end()
    } else if (path.includes('/broken/')) {
      // What a bad registry does: it says back what it was told.
      response
        .writeHead(500)
        .end(JSON.stringify({ errors: [{ code: 'UNKNOWN', message: `refused ${authorization}` }] }))
    } else if (path.includes('/manifests/')) {
      const digest = `sha256:${createHash('sha256').update(MANIFEST).digest('hex')}`
      const type = 'application/vnd.oci.image.manifest.v1+json'
      const length = Buffer.byteLength(MANIFEST)
      response.writeHead(200, { 'content-type': type, 'docker-content-digest': digest, 'content-length': length })
      response.end(request.method === 'HEAD' ? undefined : MANIFEST)
    } else response.writeHead(404).end()
  }
  const server = createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen }
}

/** Each secret as it is, and in the forms in which it goes over a wire. */
function formsOf(secret: string): string[] {
  const basic = ['user', 'client'].map((user) => Buffer.from(`${user}:${secret}`).toString('base64'))
  return [secret, encodeURIComponent(secret), Buffer.from(secret).toString('base64'), ...basic]
}

test('no planted secret is in logs, metrics, errors, the status page or the arguments', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-secrets-'))
  t.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  const registry = await startRegistry(t)
  const [mirrorPort = 0, p2pPort = 0, transferPort = 0, adminPort = 0, closedPort = 0] = await freePorts(5)
  const passwordFile = join(folder, 'password')
  writeFileSync(passwordFile, `${PLANTED['password in a file']}\n`, { mode: 0o600 })
  const dockerConfigFile = join(folder, 'docker.json')
  const auth = Buffer.from(`user:${PLANTED['password in the docker config']}`).toString('base64')
  const { host: dockerHost } = new URL(registry.url)
  writeFileSync(dockerConfigFile, JSON.stringify({ auths: { [dockerHost]: { auth } } }), { mode: 0o600 })
  const swarmKeyFile = writeSwarmKey(join(folder, 'swarm.key'))
  const swarmKey = readFileSync(swarmKeyFile, 'utf8').trim().slice('shoal-swarm-key-v1:'.length)
  // With access for the node, what the node holds is used for every client.
  const there = { endpoint: registry.url, plainHttp: true, access: 'node' }
  const config = writeConfig(join(folder, 'agent.yaml'), {
    dataDirectory: join(folder, 'agent'),
    swarmKeyFiles: [swarmKeyFile],
    ...{ mirrorPort, p2pPort, transferPort, adminPort, p2pHost: '127.0.0.1', transferHost: '127.0.0.1' },
    logLevel: 'trace',
    tagCacheTtl: 0,
    dockerConfigFile,
    manifestTimeout: '3s',
    registries: {
      'inline.test': { ...there, username: 'user', password: PLANTED['password of a registry'] },
      'file.test': { ...there, username: 'user', passwordFile },
      [dockerHost]: { access: 'node' },
      'proxied.test': {
        plainHttp: true,
        proxy: `http://user:${PLANTED['password of the proxy']}@127.0.0.1:${closedPort}`,
      },
    },
  })
  const logFile = join(folder, 'agent.log')
  const agent = new Daemon({ name: 'agent', command: shoalCommand('agent', '--config', config), logFile })
  t.after(() => agent.stop())
  const admin = `http://127.0.0.1:${adminPort}`
  const ready = async (): Promise<boolean> => !agent.running || (await fetchAll(`${admin}/readyz`)).status === 200
  await until(ready, { what: 'readiness of the agent' })
  agent.assertRunning()

  const said = new Map<string, string>()
  const ask = async (path: string, authorization?: string): Promise<number> => {
    const headers = authorization === undefined ? {} : { authorization }
    const answer = await fetchAll(`http://127.0.0.1:${mirrorPort}${path}`, { headers })
    said.set(`answer to ${path}`, `${JSON.stringify(answer.headers)}\n${answer.body.toString()}`)
    return answer.status
  }
  const basic = Buffer.from(`client:${PLANTED["client's password"]}`).toString('base64')
  for (const host of ['inline.test', 'file.test', 'proxied.test', dockerHost]) {
    await ask(`/v2/app/manifests/latest?ns=${host}`)
    await ask(`/v2/app/manifests/latest?ns=${host}`, `Basic ${basic}`)
    await ask(`/v2/broken/app/manifests/latest?ns=${host}`)
    await ask(`/v2/broken/app/manifests/latest?ns=${host}`, `Bearer ${PLANTED["client's token"]}`)
    await ask(`/v2/app/blobs/sha256:${'b'.repeat(64)}?ns=${host}`)
  }
  // The test would show nothing if the secrets had not been used.
  for (const used of ['password of a registry', 'password in a file', 'password in the docker config'] as const) {
    assert.ok(registry.seen.has(`user:${PLANTED[used]}`), `the ${used} never reached the registry`)
  }
  assert.ok(registry.seen.has(PLANTED['token of the token service']))

  for (const path of ['/metrics', '/api/v1/status']) {
    said.set(path, (await fetchAll(`${admin}${path}`)).body.toString())
  }
  for (const file of ['cmdline', 'comm'])
    said.set(`/proc ${file}`, readFileSync(`/proc/${agent.pid}/${file}`, 'latin1'))
  await agent.stop()
  said.set('the log', agent.log())
  assert.match(said.get('the log') ?? '', /"level":(10|20)/, 'the log is not as talkative as it should be')
  const secrets = { ...PLANTED, 'swarm key': swarmKey }
  for (const [where, text] of said) {
    for (const [what, secret] of Object.entries(secrets)) {
      for (const form of formsOf(secret)) assert.ok(!text.includes(form), `the ${what} is in ${where}`)
    }
  }
})

test('a key file that others may read keeps a daemon from starting, also beside good ones, and its message does not hold the key', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-loose-'))
  t.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  const [good, loose] = [writeSwarmKey(join(folder, 'good.key')), writeSwarmKey(join(folder, 'loose.key'))]
  chmodSync(loose, 0o644)
  const ports = { agent: ['mirrorPort', 'p2pPort', 'transferPort', 'adminPort'], tracker: ['p2pPort', 'httpPort'] }
  for (const kind of ['agent', 'tracker'] as const) {
    for (const swarmKeyFiles of [[loose], [loose, good], [good, loose]]) {
      const config = writeConfig(join(folder, 'config.yaml'), {
        dataDirectory: join(folder, kind),
        swarmKeyFiles,
        ...Object.fromEntries(ports[kind].map((port) => [port, 0])),
      })
      const logFile = join(folder, 'log')
      rmSync(logFile, { force: true })
      const daemon = new Daemon({ name: kind, command: shoalCommand(kind, '--config', config), logFile })
      t.after(() => daemon.stop())
      assert.notEqual(await within(daemon.ended, 30_000, `end of the ${kind}`), 0)
      assert.match(daemon.log(), /loose\.key has mode 644.*chmod 600 \S*loose\.key/)
      for (const file of [good, loose]) {
        const key = readFileSync(file, 'utf8').trim().slice('shoal-swarm-key-v1:'.length)
        assert.ok(!daemon.log().includes(key), `the key is in the log of the ${kind}`)
      }
    }
  }
})
