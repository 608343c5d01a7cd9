// What the AWS SDK relies on: that failures have the names after which it tries again.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import test, { type TestContext } from 'node:test'
import { CopyObjectCommand, GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { UndiciHandler } from './undici-handler.ts'

type Answer = (request: IncomingMessage, response: ServerResponse, number: number) => void

/** A client of a server that answers as it is told; how often it was asked. */
async function setUp(t: TestContext, answer: Answer, answerTimeoutMs = 10_000) {
  const asked = { times: 0 }
  const server = createServer((request, response) => answer(request, response, ++asked.times))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = new S3Client({
    region: 'us-east-1',
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    forcePathStyle: true,
    credentials: { accessKeyId: 'key', secretAccessKey: 'secret' },
    requestHandler: new UndiciHandler({
      maxConnections: 4,
      connectTimeoutMs: 10_000,
      answerTimeoutMs,
      pieceTimeoutMs: 10_000,
    }),
  })
  t.after(async () => {
    client.destroy()
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })
  return { client, asked }
}

const object = { Bucket: 'b', Key: 'a key/with ?#+' }

test('a request goes out as the SDK made it, and its answer comes back', async (t) => {
  let seen = ''
  const { client } = await setUp(t, (request, response) => {
    seen = `${request.method} ${request.url}`
    response.end('content')
  })
  const { Body } = await client.send(new GetObjectCommand({ ...object, PartNumber: 3 }))
  assert.equal(await Body?.transformToString(), 'content')
  assert.equal(seen, 'GET /b/a%20key/with%20%3F%23%2B?partNumber=3&x-id=GetObject')
})

test('a request whose connection breaks is sent again', async (t) => {
  const { client, asked } = await setUp(t, (request, response, number) => {
    if (number === 1) request.socket.resetAndDestroy()
    else request.resume().once('end', () => response.end())
  })
  await client.send(new PutObjectCommand({ ...object, Body: Buffer.alloc(100_000) }))
  assert.equal(asked.times, 2)
})

test('a store that does not answer is given up as a timeout, after as many tries as the SDK makes', async (t) => {
  const { client, asked } = await setUp(t, () => undefined, 50)
  await assert.rejects(client.send(new GetObjectCommand(object)), { name: 'TimeoutError' })
  assert.equal(asked.times, 3)
})

test('a request has a time of its own for its answer', async (t) => {
  const { client, asked } = await setUp(t, () => undefined, 600_000)
  const copy = new CopyObjectCommand({ ...object, CopySource: 'b/other' })
  await assert.rejects(client.send(copy, { requestTimeout: 50 }), { name: 'TimeoutError' })
  assert.equal(asked.times, 3)
})
