// How long a bucket may take, and who is told when it takes longer.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { join } from 'node:path'
import test from 'node:test'
import { pino } from 'pino'
import { temporaryFolder } from '../../testing.ts'
import { Bucket } from './bucket.ts'
import { S3Driver } from './driver.ts'
import { MultipartCopy } from './multipart-copy.ts'

async function credentialsIn(folder: string): Promise<string> {
  const path = join(folder, 'credentials')
  await writeFile(path, '[default]\naws_access_key_id = key\naws_secret_access_key = secret\n')
  return path
}

test('a bucket that takes connections and does not answer is told in the log while a registry waits for it', async () => {
  await using folder = await temporaryFolder()
  const sockets = new Set<Socket>()
  const server = createServer((socket) => sockets.add(socket.on('error', () => undefined)))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const told = Promise.withResolvers<Record<string, unknown>>()
  const log = pino({ level: 'warn' }, { write: (line) => told.resolve(JSON.parse(line) as Record<string, unknown>) })
  const credentialsFile = await credentialsIn(folder.path)
  const opened = S3Driver.open({ bucket: 'images', endpoint, credentialsFile }, log, 10)
  const refused = assert.rejects(opened, { code: 'UNAVAILABLE' })
  const { msg, bucket } = await told.promise
  assert.match(String(msg), /does not answer yet/)
  assert.equal(bucket, 'images')
  server.close()
  for (const socket of sockets) socket.destroy()
  await refused
})

test('only where the store may be copying does a request wait long for its answer', async () => {
  await using folder = await temporaryFolder()
  const credentialsFile = await credentialsIn(folder.path)
  const bucket = new Bucket({ bucket: 'images', endpoint: 'http://127.0.0.1:9', credentialsFile })
  const waits: (number | undefined)[] = []
  const { requestHandler } = bucket.client.config
  requestHandler.handle = (_request: unknown, options?: { requestTimeout?: number }) => {
    waits.push(options?.requestTimeout)
    return Promise.reject(new Error('recorded'))
  }
  const copy = MultipartCopy.of(bucket, Buffer.from(JSON.stringify({ path: 'to', uploadId: '1' })))
  await assert.rejects(bucket.get('from'))
  await assert.rejects(bucket.delete(['from']))
  await assert.rejects(copy.complete([])) // The end of it, and its being given up.
  await assert.rejects(bucket.copy('from', 'to'))
  await assert.rejects(copy.complete([{ path: 'from', sizeBytes: 1 }]))
  assert.deepEqual(waits, [undefined, undefined, 300_000, undefined, 300_000, 300_000, undefined])
  bucket.close()
})
