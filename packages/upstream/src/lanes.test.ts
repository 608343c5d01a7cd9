import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestOf } from '@shoal/oci'
import { Registry } from 'prom-client'
import { Lanes } from './lanes.ts'
import { readAll, requestOptions, sendError, sendManifest, startServer, startUpstream, targetAt } from './testing.ts'
import type { ServerResponse } from 'node:http'

const digest = digestOf('x')

test('a lane holds so many at a time; places come free in order; hosts and lanes are apart', async () => {
  const lanes = new Lanes(2)
  const signal = AbortSignal.timeout(10_000)
  const first = await lanes.enter('a', 'content', signal)
  await lanes.enter('a', 'content', signal)
  await lanes.enter('a', 'metadata', signal)
  await lanes.enter('b', 'content', signal)
  const order: number[] = []
  const third = lanes.enter('a', 'content', signal).then((leave) => (order.push(3), leave))
  const fourth = lanes.enter('a', 'content', signal).then((leave) => (order.push(4), leave))
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(order, [])
  first()
  first()
  const leaveThird = await third
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(order, [3])
  leaveThird()
  await fourth
})

test('who gives up while waiting leaves the queue', async () => {
  const lanes = new Lanes(1)
  const leave = await lanes.enter('a', 'content', AbortSignal.timeout(10_000))
  const abort = new AbortController()
  const waiting = assert.rejects(lanes.enter('a', 'content', abort.signal), /gone/)
  abort.abort(new Error('gone'))
  await waiting
  await assert.rejects(lanes.enter('a', 'content', abort.signal), /gone/)
  leave()
  await lanes.enter('a', 'content', AbortSignal.timeout(10_000))
})

test('aborting after entering does not give the place away', async () => {
  const lanes = new Lanes(1)
  const abort = new AbortController()
  const leave = await lanes.enter('a', 'content', abort.signal)
  abort.abort(new Error('gone'))
  let entered = false
  const next = lanes.enter('a', 'content', AbortSignal.timeout(10_000)).then(() => (entered = true))
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(entered, false)
  leave()
  await next
})

test('open bodies count; a manifest does not wait behind them; every end of a body frees its place', async (t) => {
  const held: ServerResponse[] = []
  const server = await startServer(t, (request, response) => {
    if (request.url.includes('/manifests/')) return sendManifest(request, response)
    response.writeHead(200, { 'content-length': 4 })
    response.write('ab')
    held.push(response)
  })
  const upstream = startUpstream(t, { concurrency: 2, retries: 0 })
  const open = () => upstream.openBlob(targetAt(server.host), digest, undefined, requestOptions())
  const [first, second] = [await open(), await open()]
  const third = open()
  await upstream.getManifest(targetAt(server.host), 'x', requestOptions())
  assert.equal(held.length, 2)
  held[0]?.end('cd')
  assert.equal((await readAll(first.body)).toString(), 'abcd')
  const fourth = open()
  const thirdBody = (await third).body
  second.body.destroy()
  const fourthBody = (await fourth).body
  held[2]?.socket?.end()
  await assert.rejects(readAll(thirdBody))
  const fifth = await open()
  assert.equal(held.length, 5)
  for (const body of [fourthBody, fifth.body]) body.destroy()
})

test('a body that comes by way of redirects has the place of its request until it ends', async (t) => {
  const held: ServerResponse[] = []
  const storage = await startServer(t, (request, response) => {
    if (request.url === '/onward') return void response.writeHead(302, { location: '/blob' }).end('look there')
    response.writeHead(200, { 'content-length': 4 })
    response.write('ab')
    held.push(response)
  })
  const registry = await startServer(t, (request, response) => {
    if (request.url.includes('/manifests/')) return sendManifest(request, response)
    response.writeHead(307, { location: `${storage.url}/onward` }).end('look there')
  })
  const upstream = startUpstream(t, { concurrency: 1, retries: 0 })
  const open = () => upstream.openBlob(targetAt(registry.host), digest, undefined, requestOptions())
  const first = await open()
  const second = open()
  for (let count = 0; count < 5; count++) {
    await upstream.getManifest(targetAt(registry.host), 'x', requestOptions())
  }
  assert.equal(registry.seenAt('/blobs/').length, 1)
  held[0]?.end('cd')
  assert.equal((await readAll(first.body)).toString(), 'abcd')
  const third = open()
  const secondBody = (await second).body
  secondBody.destroy()
  const thirdBody = (await third).body
  assert.equal(held.length, 3)
  thirdBody.destroy()
})

test('errors, redirects and refusals free their places too', async (t) => {
  const server = await startServer(t, (request, response) => {
    if (request.url.includes('/lost/')) sendError(response, 404, 'BLOB_UNKNOWN')
    else if (request.url.includes('/away/')) response.writeHead(302, { location: 'http://169.254.169.254/' }).end()
    else if (request.url.includes('/onward/')) response.writeHead(302, { location: request.url.slice(10) }).end()
    else if (request.url.includes('/odd/')) response.writeHead(206, { 'content-range': 'x' }).end('x')
    else response.socket?.resetAndDestroy()
  })
  const upstream = startUpstream(t, { concurrency: 1, retries: 0 })
  for (let count = 0; count < 3; count++) {
    for (const name of ['lost', 'away', 'odd', 'reset', 'onward/lost', 'onward/away', 'onward/reset']) {
      await assert.rejects(
        upstream.openBlob(targetAt(server.host, `${name}/x`), digest, { start: 0 }, requestOptions()),
      )
    }
  }
})

test('metrics: requests by status, bytes, durations; the number of hosts is bounded', async (t) => {
  const server = await startServer(t, (request, response) => {
    if (request.url.endsWith('/x')) sendManifest(request, response)
    else sendError(response, 404, 'X')
  })
  const metrics = new Registry()
  const upstream = startUpstream(t, {
    metrics,
    retries: 0,
    lookup: (_name, _options, callback) => callback(Object.assign(new Error('x'), { code: 'ENOTFOUND' }), '', 0),
  })
  const { sizeBytes } = await upstream.getManifest(targetAt(server.host), 'x', requestOptions())
  await assert.rejects(upstream.headManifest(targetAt(server.host), 'y', requestOptions()))
  for (let count = 0; count < 250; count++) {
    await assert.rejects(upstream.headManifest(targetAt(`r${count}.example.com`), 'x', requestOptions()))
  }
  const text = await metrics.metrics()
  assert.match(text, new RegExp(`shoal_origin_requests_total{host="${server.host}",status="200"} 1`))
  assert.match(text, new RegExp(`shoal_origin_requests_total{host="${server.host}",status="404"} 1`))
  assert.match(text, new RegExp(`shoal_origin_bytes_received_total{host="${server.host}"} ${sizeBytes}`))
  assert.match(text, new RegExp(`shoal_origin_request_duration_seconds_count{host="${server.host}"} 2`))
  assert.match(text, /shoal_origin_requests_total{host="r0\.example\.com",status="UNREACHABLE"} 1/)
  assert.match(text, /shoal_origin_requests_total{host="other",status="UNREACHABLE"} 51/)
})

test('the number of places may change while some wait', async () => {
  const lanes = new Lanes(1)
  const signal = AbortSignal.timeout(10_000)
  const leave = [await lanes.enter('a', 'content', signal)]
  const waiting = [2, 3].map((number) => lanes.enter('a', 'content', signal).then((go) => (leave.push(go), number)))
  lanes.concurrency = 2
  assert.equal(await waiting[0], 2)
  lanes.concurrency = 1
  leave[0]?.()
  const last = await Promise.race([waiting[1], new Promise((resolve) => setImmediate(() => resolve('still waiting')))])
  assert.equal(last, 'still waiting')
  leave[1]?.()
  assert.equal(await waiting[1], 3)
  leave[2]?.()
})
