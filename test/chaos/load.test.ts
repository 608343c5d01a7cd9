// 500 clients at once at one agent, for 50 blobs of which some do not exist and the others are still arriving; beside them
// a thousand connections that say nothing, and a client that takes a byte now and then.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { Daemon } from '../support/daemon.ts'
import { fetchAll } from '../support/http.ts'
import { MiB } from '../support/images.ts'
import { freePorts } from '../support/ports.ts'
import { shoalCommand, writeConfig, writeSwarmKey } from '../support/shoal.ts'
import { until } from '../support/until.ts'

const CLIENTS = 500
const BLOBS = 45
const MISSING = 5
const IDLE = 1000
/** An agent that does nothing takes some 150 MiB; 500 answers of a MiB each must not all be held at once. */
const MAX_RSS_BYTES = 1024 * MiB

const digestOf = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

/** A registry with these blobs, whose answers wait until `open` is called: so all of them are arriving at once. */
async function startOrigin(t: TestContext, blobs: Map<string, Buffer>): Promise<{ url: string; open: () => void }> {
  const gate = Promise.withResolvers<void>()
  const server = createServer((request, response) => {
    const bytes = blobs.get(/\/blobs\/([^?]+)/.exec(request.url ?? '')?.[1] ?? '')
    if (bytes === undefined) {
      response.writeHead(404, { 'content-type': 'application/json' }).end('{"errors":[{"code":"BLOB_UNKNOWN"}]}')
      return
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')
    const first = Number(range?.[1] ?? 0)
    const last = range?.[2] ? Math.min(Number(range[2]), bytes.length - 1) : bytes.length - 1
    const headers = { 'content-length': last - first + 1, 'content-range': `bytes ${first}-${last}/${bytes.length}` }
    response.writeHead(range ? 206 : 200, headers)
    if (request.method === 'HEAD') response.end()
    else
      gate.promise.then(
        () => response.end(bytes.subarray(first, last + 1)),
        () => response.destroy(),
      )
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, open: gate.resolve }
}

const rssOf = (pid: number): number =>
  Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Infinity) * 1024

async function openConnection(t: TestContext, port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => undefined)
  t.after(() => socket.destroy())
  await once(socket, 'connect')
  return socket
}

test('500 clients at one agent get the right bytes or the right error, in bounded memory', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-load-'))
  t.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  const blobs = new Map<string, Buffer>()
  for (let blob = 0; blob < BLOBS; blob++) {
    const bytes = Buffer.alloc(MiB, `blob ${blob}, `)
    blobs.set(digestOf(bytes), bytes)
  }
  const missing = Array.from({ length: MISSING }, (_, at) => digestOf(Buffer.from(`missing ${at}`)))
  const origin = await startOrigin(t, blobs)
  const [mirrorPort = 0, p2pPort = 0, transferPort = 0, adminPort = 0] = await freePorts(4)
  const config = writeConfig(join(folder, 'agent.yaml'), {
    dataDirectory: join(folder, 'agent'),
    swarmKeyFiles: [writeSwarmKey(join(folder, 'swarm.key'))],
    ...{ mirrorPort, p2pPort, transferPort, adminPort, p2pHost: '127.0.0.1', transferHost: '127.0.0.1' },
    registries: { 'load.test': { endpoint: origin.url, plainHttp: true } },
  })
  const command = shoalCommand('agent', '--config', config)
  const agent = new Daemon({ name: 'agent', command, logFile: join(folder, 'agent.log') })
  t.after(() => agent.stop())
  const readyz = `http://127.0.0.1:${adminPort}/readyz`
  await until(async () => !agent.running || (await fetchAll(readyz)).status === 200, { what: 'readiness' })
  agent.assertRunning()

  const pathOf = (digest: string): string => `/v2/app/blobs/${digest}?ns=load.test`
  await Promise.all(Array.from({ length: IDLE }, () => openConnection(t, mirrorPort)))
  const [first = ''] = blobs.keys()
  const slow = await openConnection(t, mirrorPort)
  slow.pause()
  slow.write(`GET ${pathOf(first)} HTTP/1.1\r\nHost: x\r\n\r\n`)

  const wanted = [...blobs.keys(), ...missing]
  let done = 0
  const clients = Array.from({ length: CLIENTS }, async (_, client) => {
    const digest = wanted[client % wanted.length] ?? ''
    const { status, body } = await fetchAll(`http://127.0.0.1:${mirrorPort}${pathOf(digest)}`)
    done++
    if (missing.includes(digest)) assert.equal(status, 404, `${digest} does not exist`)
    else {
      assert.equal(status, 200, body.toString().slice(0, 300))
      assert.equal(digestOf(body), digest)
    }
  })
  // Those who ask for what is not there need not wait for those who do.
  const refused = Promise.all(clients.filter((_, client) => missing.includes(wanted[client % wanted.length] ?? '')))
  await Promise.race([refused, Promise.all(clients)])
  origin.open()
  await Promise.all(clients)
  assert.equal(done, CLIENTS)
  const rssBytes = rssOf(agent.pid)
  t.diagnostic(`${CLIENTS} clients, ${IDLE} idle connections, ${Math.round(rssBytes / MiB)} MiB at most`)
  assert.ok(rssBytes < MAX_RSS_BYTES, `${rssBytes} bytes of memory`)
  // One copy of each blob left the origin's side, however many asked; afterwards nothing is under way any more.
  const idle = async (): Promise<boolean> =>
    /^shoal_downloads_active 0$/m.test((await fetchAll(`http://127.0.0.1:${adminPort}/metrics`)).body.toString())
  await until(idle, { what: 'end of all downloads' })
})
