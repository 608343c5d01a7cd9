// `shoal pull` and `shoal status` against an admin API that plays an agent.
import assert from 'node:assert/strict'
import type { ServerResponse } from 'node:http'
import { describe, it } from 'node:test'
import type { AgentStatus, PullEvent } from './admin-client.ts'
import { showStatus } from './commands/status.ts'
import { runCommand } from './program.ts'
import { listening } from './testing.ts'
import { BarDisplay, PullTally } from './pull-progress.ts'
import { PassThrough } from 'node:stream'

async function shoal(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  let out = ''
  let err = ''
  const code = await runCommand(args, { out: (text) => (out += text), err: (text) => (err += text) })
  return { code, out, err }
}

const A = `sha256:${'a'.repeat(64)}` as const
const B = `sha256:${'b'.repeat(64)}` as const
const M = `sha256:${'c'.repeat(64)}` as const

const EVENTS: PullEvent[] = [
  { event: 'manifest', digest: M, mediaType: 'application/vnd.oci.image.manifest.v1+json', sizeBytes: 500 },
  {
    event: 'layers',
    layers: [
      { digest: A, sizeBytes: 4096 },
      { digest: B, sizeBytes: 1024 },
    ],
  },
  { event: 'progress', digest: A, receivedBytes: 2048, sizeBytes: 4096, fromPeersBytes: 1024, fromOriginBytes: 1024 },
  { event: 'layer-done', digest: B, source: 'store' },
  { event: 'progress', digest: A, receivedBytes: 4096, sizeBytes: 4096, fromPeersBytes: 3072, fromOriginBytes: 1024 },
  { event: 'layer-done', digest: A, source: 'swarm' },
  { event: 'done', digest: M, durationMs: 2_000 },
]

function answer(response: ServerResponse, events: unknown[]): void {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' })
  response.end(events.map((event) => `${JSON.stringify(event)}\n`).join(''))
}

describe('shoal pull', () => {
  it('asks for the whole name, follows the events and sums up where the bytes came from', async (t) => {
    let asked: unknown
    const admin = await listening(t, (request, response) => {
      assert.equal(`${request.method} ${request.url}`, 'POST /api/v1/pulls')
      let body = ''
      request.on('data', (part) => (body += String(part)))
      request.on('end', () => {
        asked = JSON.parse(body)
        answer(response, EVENTS)
      })
    })
    const { code, out, err } = await shoal('pull', 'alpine', '--platform', 'linux/aarch64', '--admin', admin)
    assert.equal(code, 0, err)
    assert.deepEqual(asked, { image: 'docker.io/library/alpine:latest', platform: 'linux/arm64' })
    assert.match(out, new RegExp(`^${M}\n`))
    assert.match(
      out,
      /2 blobs, 5\.0 KiB in 2\.0 s, 2\.0 KiB\/s: 3\.0 KiB from peers, 1\.0 KiB from the origin, 1\.0 KiB in the store/,
    )
    assert.match(err, /^aaaaaaaaaaaa done, from swarm$/m)
    assert.match(err, /^bbbbbbbbbbbb done, from store$/m)
  })

  it('reads events that are cut anywhere', async (t) => {
    const bytes = Buffer.from(`${EVENTS.map((event) => JSON.stringify(event)).join('\n')}`)
    const admin = await listening(t, (_request, response) => {
      response.writeHead(200)
      const send = (from: number): void => {
        if (from >= bytes.length) response.end()
        else response.write(bytes.subarray(from, from + 7), () => send(from + 7))
      }
      send(0)
    })
    assert.equal((await shoal('pull', 'alpine', '--admin', admin)).code, 0)
  })

  it('ends with 1 and the reason on an error event, without its control characters', async (t) => {
    const event: PullEvent = { event: 'error', code: 'NAME_UNKNOWN', message: 'no \u001b[31msuch\u001b[0m\r image' }
    const admin = await listening(t, (_request, response) => answer(response, [event]))
    const { code, out, err } = await shoal('pull', 'alpine', '--admin', admin)
    assert.deepEqual({ code, out }, { code: 1, out: '' })
    assert.match(err, /docker\.io\/library\/alpine:latest: no such {2}?image \(NAME_UNKNOWN\)/)
  })

  it('ends with 1 when the agent refuses, with its words', async (t) => {
    const admin = await listening(t, (_request, response) => {
      response.writeHead(403, { 'content-type': 'application/json' })
      response.end(JSON.stringify({ errors: [{ code: 'DENIED', message: 'not this registry' }] }))
    })
    const { code, err } = await shoal('pull', 'alpine', '--admin', admin)
    assert.equal(code, 1)
    assert.match(err, /answered 403: not this registry/)
  })

  it('ends with 1 when the stream ends without a result', async (t) => {
    const admin = await listening(t, (_request, response) => answer(response, EVENTS.slice(0, 3)))
    const { code, err } = await shoal('pull', 'alpine', '--admin', admin)
    assert.equal(code, 1)
    assert.match(err, /without a result/)
  })

  it('ends with 1 when the agent dies on the way', async (t) => {
    const admin = await listening(t, (_request, response) => {
      response.writeHead(200)
      response.write(`${JSON.stringify(EVENTS[0])}\n`, () => response.socket?.destroy())
    })
    const { code, err } = await shoal('pull', 'alpine', '--admin', admin)
    assert.equal(code, 1)
    assert.match(err, /the agent broke off/)
  })

  it('ends with 1 when something else than an agent answers', async (t) => {
    const admin = await listening(t, (_request, response) => response.end('<html>'))
    for (const args of [['pull', 'alpine'], ['status']]) {
      const { code, err } = await shoal(...args, '--admin', admin)
      assert.equal(code, 1)
      assert.match(err, /not that of an agent/)
    }
  })
})

describe('BarDisplay', () => {
  it('shows a bar for each layer and where its bytes come from', () => {
    const terminal = Object.assign(new PassThrough(), { isTTY: true, columns: 200 })
    const display = new BarDisplay(terminal)
    for (const event of EVENTS) display.event(event)
    display.close()
    const shown = String(terminal.read())
    assert.match(shown, /aaaaaaaaaaaa █+ +100 % of 4\.0 KiB {2}3\.0 KiB from peers, 1\.0 KiB from the origin/)
    assert.match(shown, /bbbbbbbbbbbb █+ +100 % of 1\.0 KiB {2}already here/)
  })

  it('takes a layer without bytes', () => {
    const terminal = Object.assign(new PassThrough(), { isTTY: true, columns: 200 })
    const display = new BarDisplay(terminal)
    display.event({ event: 'layers', layers: [{ digest: A, sizeBytes: 0 }] })
    display.event({ event: 'layer-done', digest: A, source: 'swarm' })
    display.close()
    assert.doesNotMatch(String(terminal.read()), /NaN/)
  })
})

describe('PullTally', () => {
  it('counts what came from nowhere as there before', () => {
    const tally = new PullTally()
    for (const event of EVENTS) tally.add(event)
    assert.deepEqual(tally.sums(), { total: 5_120, peers: 3_072, origin: 1_024, store: 1_024 })
  })
})

const STATUS: AgentStatus = {
  version: '0.1.0',
  peerId: '12D3KooW',
  zone: 'rack-1',
  uptimeMs: 3_725_000,
  peersConnected: 3,
  routingTableSize: 5,
  trackers: [
    { address: 't1:7710', connected: true, peerId: '12D3T' },
    { address: 't2:7710', connected: false },
  ],
  store: { storedBytes: 3 * 2 ** 20, quotaBytes: 2 ** 30, blobs: 7, partialBlobs: 1 },
  downloads: [
    {
      digest: A,
      sizeBytes: 2 ** 20,
      receivedBytes: 2 ** 19,
      fromPeersBytes: 2 ** 18,
      fromOriginBytes: 2 ** 18,
      neighbours: 4,
      state: 'active',
    },
  ],
}

describe('shoal status', () => {
  it('shows what the agent says', async (t) => {
    const admin = await listening(t, (request, response) => {
      assert.equal(`${request.method} ${request.url}`, 'GET /api/v1/status')
      response.end(JSON.stringify(STATUS))
    })
    const { code, out } = await shoal('status', '--admin', admin)
    assert.equal(code, 0)
    assert.match(out, /^Up for: +1 h 2 m$/m)
    assert.match(out, /^Store: +3\.0 MiB of 1\.0 GiB in 7 blobs, 1 incomplete$/m)
    assert.match(out, /^t2:7710 +NOT CONNECTED/m)
    assert.match(out, /^aaaaaaaaaaaa +1\.0 MiB +50 % +256 KiB +256 KiB +4 +active$/m)
    assert.deepEqual(JSON.parse((await shoal('status', '--json', '--admin', admin)).out), STATUS)
  })

  it('tells that there is no tracker', () => {
    assert.match(showStatus({ ...STATUS, trackers: [], downloads: [] }), /Trackers: none/)
  })
})
