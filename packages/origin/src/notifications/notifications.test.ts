import assert from 'node:assert/strict'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import bcrypt from 'bcryptjs'
import pino from 'pino'
import { Registry } from 'prom-client'
import type { RequestContext } from '@shoal/registry'
import { Client, makeImage, MANIFEST_TYPE, startOrigin, temporaryFolder } from '../testing.ts'
import { parseHeaders } from './endpoint.ts'
import { EVENTS_TYPE, type RegistryEvent } from './event.ts'
import { Notifier, type NotifierOptions } from './notifier.ts'

/** An endpoint that answers with `statuses`, then with 200. */
class Receiver implements AsyncDisposable {
  readonly events: RegistryEvent[] = []
  readonly headers: IncomingHttpHeaders[] = []
  refused = 0
  statuses: number[] = []
  #news = Promise.withResolvers<void>()
  readonly #server = createServer((request, response) => {
    const pieces: Buffer[] = []
    request.on('data', (piece: Buffer) => pieces.push(piece))
    request.on('end', () => {
      const status = this.statuses.shift() ?? 200
      if (status === 200) {
        this.events.push(...(JSON.parse(Buffer.concat(pieces).toString()) as { events: RegistryEvent[] }).events)
        this.headers.push(request.headers)
      } else this.refused++
      response.writeHead(status).end('thanks')
      this.#news.resolve()
      this.#news = Promise.withResolvers()
    })
  })

  async listen(port = 0): Promise<this> {
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
    return this
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/hook?key=secret`
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await this.#news.promise
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
  }
}

const context = { requestId: 'r1', endpoint: 'http://registry.test:9000', userAgent: 'docker/1' } as RequestContext
const pushOf = (tag: string, name = 'team/web') => ({ action: 'push' as const, name, tags: [tag], context })
const tagsOf = (events: RegistryEvent[]) => events.map(({ target }) => target.tag)

async function openNotifier(folder: string, options: Partial<NotifierOptions>): Promise<Notifier & AsyncDisposable> {
  const notifier = await Notifier.open({
    endpoints: [],
    folder,
    logger: pino({ level: 'silent' }),
    metrics: new Registry(),
    retryMs: 2,
    ...options,
  })
  return Object.assign(notifier, { [Symbol.asyncDispose]: () => notifier.close() })
}

test('events reach an endpoint that failed at first, once each and in their order', { timeout: 30_000 }, async () => {
  await using folder = await temporaryFolder()
  await using receiver = await new Receiver().listen()
  receiver.statuses = [500, 404, 302, 200, 503]
  const metrics = new Registry()
  await using notifier = await openNotifier(folder.path, { endpoints: [{ url: receiver.url }], metrics })
  const tags = Array.from({ length: 30 }, (_, at) => `t${at}`)
  for (const tag of tags) await notifier.notify(pushOf(tag))
  await receiver.until(() => receiver.events.length === tags.length)
  assert.deepEqual(tagsOf(receiver.events), tags)
  assert.equal(receiver.refused, 4)
  assert.equal(new Set(receiver.events.map(({ id }) => id)).size, tags.length)
  await notifier.close()
  const text = await metrics.metrics()
  const label = receiver.url.slice(0, receiver.url.indexOf('?'))
  assert.ok(text.includes(`shoal_registry_notifications_total{endpoint="${label}",outcome="failed"} 4`), text)
  assert.ok(!text.includes('secret'))
})

test('what an endpoint did not take is sent after a restart, before what comes then', { timeout: 30_000 }, async () => {
  await using folder = await temporaryFolder()
  const receiver = await new Receiver().listen()
  const { url } = receiver
  receiver.statuses = Array<number>(1_000).fill(500)
  const first = await openNotifier(folder.path, { endpoints: [{ url }] })
  for (const tag of ['1', '2', '3']) await first.notify(pushOf(tag))
  await receiver.until(() => receiver.refused > 0)
  await first.close()
  receiver.statuses = []
  await using _receiver = receiver
  const metrics = new Registry()
  await using second = await openNotifier(folder.path, { endpoints: [{ url }], metrics })
  await second.notify(pushOf('4'))
  await receiver.until(() => receiver.events.length === 4)
  assert.deepEqual(tagsOf(receiver.events), ['1', '2', '3', '4'])
})

test('an endpoint that is slow holds up neither another nor who pushes', { timeout: 30_000 }, async () => {
  await using folder = await temporaryFolder()
  await using good = await new Receiver().listen()
  await using bad = await new Receiver().listen()
  bad.statuses = Array<number>(1_000).fill(500)
  const metrics = new Registry()
  const endpoints = [{ url: bad.url, repositories: ['team/**'] }, { url: good.url }]
  await using notifier = await openNotifier(folder.path, { endpoints, metrics, maxPending: 3, retryMs: 60_000 })
  const tags = ['1', '2', '3', '4', '5']
  for (const [at, tag] of tags.entries()) {
    await notifier.notify(pushOf(tag))
    await good.until(() => good.events.length === at + 1)
  }
  await notifier.notify(pushOf('6', 'elsewhere'))
  await good.until(() => good.events.length === 6)
  const text = await metrics.metrics()
  const label = bad.url.slice(0, bad.url.indexOf('?'))
  assert.ok(text.includes(`shoal_registry_notifications_pending{endpoint="${label}"} 3`), text)
  assert.ok(text.includes(`shoal_registry_notifications_total{endpoint="${label}",outcome="dropped"} 2`), text)
})

test('a registry tells who pushed and deleted what, with headers', { timeout: 30_000 }, async () => {
  await using folder = await temporaryFolder()
  await using receiver = await new Receiver().listen()
  const headersFile = join(folder.path, 'headers')
  await writeFile(headersFile, '# for CI\nAuthorization: Bearer abc\n')
  const htpasswdFile = join(folder.path, 'accounts')
  await writeFile(htpasswdFile, `ann:${await bcrypt.hash('password', 4)}\n`)
  const notifications = [{ url: receiver.url, headersFile, repositories: ['team/**'] }]
  const options = { htpasswdFile, notifications, publicUrl: 'https://registry.example.com/' }
  await using origin = await startOrigin(join(folder.path, 'data'), options)
  const authorization = `Basic ${Buffer.from('ann:password').toString('base64')}`
  const client = new Client(origin.url, { authorization, 'user-agent': 'docker/29' })
  const image = makeImage()
  assert.equal((await client.pushImage('elsewhere', '1', image)).status, 201)
  assert.equal((await client.pushImage('team/web', '1', image)).status, 201)
  assert.equal((await client.ask('DELETE', '/v2/team/web/manifests/1')).status, 202)
  assert.equal((await client.ask('DELETE', `/v2/team/web/manifests/${image.digest}`)).status, 202)
  await receiver.until(() => receiver.events.length === 3)
  const [push, untag, removal] = receiver.events
  const size = image.descriptor.size
  assert.deepEqual(push?.target, {
    mediaType: MANIFEST_TYPE,
    digest: image.digest,
    size,
    length: size,
    repository: 'team/web',
    tag: '1',
    url: `https://registry.example.com/v2/team/web/manifests/${image.digest}`,
  })
  assert.deepEqual([push.action, push.actor, push.request.useragent], ['push', { name: 'ann' }, 'docker/29'])
  assert.equal(push.request.host, new URL(origin.url).host)
  assert.deepEqual([untag?.action, untag?.target], ['delete', { repository: 'team/web', tag: '1' }])
  assert.deepEqual([removal?.action, removal?.target.digest], ['delete', image.digest])
  assert.equal(receiver.headers[0]?.['content-type'], EVENTS_TYPE)
  assert.equal(receiver.headers[0]?.authorization, 'Bearer abc')
})

test('a file of headers that is wrong is refused without its content', () => {
  assert.deepEqual(parseHeaders('\n# x\nX-One: a: b \r\nX-Two:\n'), [
    ['X-One', 'a: b'],
    ['X-Two', ''],
  ])
  const wrong = (error: Error): boolean => error.message.includes('line 2') && !error.message.includes('secret')
  assert.throws(() => parseHeaders('A: b\nsecret'), wrong)
})
