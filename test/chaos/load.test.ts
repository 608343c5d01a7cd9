// 500 clients at once at one agent, for 50 blobs of which some do not exist, some are for who may read them only, and most
// are still arriving; some are in the store already.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent } from 'node:http'
import { test } from 'node:test'
import { fetchAll, open } from '../support/http.ts'
import { MiB } from '../support/images.ts'
import { memory } from '../support/process-cost.ts'
import { until } from '../support/until.ts'
import { digestOf, makeBlobs, startHeldOrigin, startLoneAgent } from './lone-agent.ts'

const CLIENTS = 500
const BLOB_BYTES = 2 * MiB
const PUBLIC = 30
const PRIVATE = 15
const MISSING = 5
/** Of the public and of the private ones each: in the store before anybody of the 500 asks. */
const STORED = 5
/** What the clients may make the agent take more than it has: half of the 660 MiB that they get. */
const MORE_MEMORY_BYTES = 320 * MiB

const basic = (login: string): string => `Basic ${Buffer.from(login).toString('base64')}`
const RIGHT = basic('ann:correct horse battery')
const WRONG = basic('ann:not her password')

interface Wish {
  digest: string
  repository: string
  authorization?: string
  /** The answer that is right. */
  status: 200 | 401 | 404
}

/** What each client asks for: a blob in turn, and of the private ones with and without a right to it. */
function wishes(open: readonly string[], closed: readonly string[], missing: readonly string[]): Wish[] {
  const all = [...open, ...closed, ...missing]
  return Array.from({ length: CLIENTS }, (_, client): Wish => {
    const digest = all[client % all.length] ?? ''
    if (open.includes(digest)) return { digest, repository: 'open/app', status: 200 }
    if (missing.includes(digest)) return { digest, repository: 'open/app', status: 404 }
    const ways: Omit<Wish, 'digest'>[] = [
      { repository: 'closed/app', authorization: RIGHT, status: 200 },
      { repository: 'closed/app', authorization: WRONG, status: 401 },
      { repository: 'closed/app', status: 401 },
      // What is private is not to be had under the name of what is open, whoever asks.
      { repository: 'open/app', authorization: RIGHT, status: 404 },
      { repository: 'open/app', status: 404 },
    ]
    const way = ways[Math.floor(client / all.length) % ways.length]
    assert.ok(way)
    return { digest, ...way }
  })
}

test('500 clients at one agent get the right bytes or the right error, all of them at the same time', async (t) => {
  const blobs = makeBlobs('public', PUBLIC, BLOB_BYTES)
  const secrets = makeBlobs('private', PRIVATE, BLOB_BYTES)
  const missing = Array.from({ length: MISSING }, (_, at) => digestOf(Buffer.from(`missing ${at}`)))
  const origin = await startHeldOrigin(t, {
    repositories: { 'open/app': blobs, 'closed/app': secrets },
    logins: { 'closed/app': RIGHT },
  })
  // The origin holds as many requests as there are blobs.
  const agent = await startLoneAgent(t, origin, { originConcurrency: 100, stallTimeout: '60s', blobTimeout: '10m' })
  const stored = [...blobs.keys()].slice(0, STORED)
  const storedSecrets = [...secrets.keys()].slice(0, STORED)
  for (const digest of stored) await fetchAll(agent.urlOf('open/app', digest))
  for (const digest of storedSecrets) {
    await fetchAll(agent.urlOf('closed/app', digest), { headers: { authorization: RIGHT } })
  }
  const before = memory(agent.pid).residentBytes
  const held = [...blobs.keys(), ...secrets.keys()].filter((digest) => ![...stored, ...storedSecrets].includes(digest))
  origin.hold(held)

  // As many connections as clients.
  const connections = new Agent({ keepAlive: false, maxSockets: Infinity })
  const begun = new Set<number>()
  const wanted = wishes([...blobs.keys()], [...secrets.keys()], missing)
  const clients = wanted.map(async (wish, client) => {
    const { digest, repository, authorization, status } = wish
    const headers = authorization === undefined ? {} : { authorization }
    const answer = await open(agent.urlOf(repository, digest), { headers, agent: connections, idleLimitMs: 120_000 })
    const pieces: Buffer[] = []
    answer.on('data', (piece: Buffer) => {
      begun.add(client)
      pieces.push(piece)
    })
    await once(answer, 'end')
    const body = Buffer.concat(pieces)
    const what = `${digest} of ${repository} for ${authorization ?? 'nobody'}`
    assert.equal(answer.statusCode, status, `${what}: ${status === 200 ? '' : body.toString()}`.slice(0, 500))
    if (status === 200) assert.equal(digestOf(body), digest, what)
    else assert.match(body.toString(), /^\{"errors":\[\{"code":"/, what)
  })
  const all = Promise.all(clients)
  // Fair: nobody waits for anybody else. The origin gives half of each blob and no more before each client has its first
  // byte, be it of a blob or of an error, and before all that needs no origin is over: a client that had to wait for
  // another would wait for good.
  const begin = until(() => begun.size === CLIENTS, { what: 'first byte for each client', deadlineMs: 60_000 })
  const needNoOrigin = clients.filter((_, at) => wanted[at]?.status !== 200 || !held.includes(wanted[at].digest))
  await Promise.race([Promise.all([begin, ...needNoOrigin]), all.then(() => begin)])
  origin.release()
  await all
  const { peakBytes } = memory(agent.pid)
  const mib = (bytes: number): number => Math.round(bytes / MiB)
  t.diagnostic(
    `${CLIENTS} clients, ${needNoOrigin.length} served while the rest was held; ${mib(before)} MiB before, ${mib(peakBytes)} at most`,
  )
  assert.ok(peakBytes < before + MORE_MEMORY_BYTES, `${mib(peakBytes)} MiB of memory, ${mib(before)} before`)
  agent.assertRunning()
  await until(async () => (await agent.metric('shoal_downloads_active')) === 0, { what: 'end of all downloads' })
})
