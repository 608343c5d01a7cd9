import assert from 'node:assert/strict'
import { once } from 'node:events'
import { PassThrough, Readable } from 'node:stream'
import test from 'node:test'
import { freeBytes, piecesOf } from './byte-pieces.ts'

async function read(stream: Readable): Promise<string[]> {
  const pieces: string[] = []
  for await (const piece of piecesOf(stream)) pieces.push(piece.toString())
  return pieces
}

test('the pieces come as they were sent, also those that have gathered', async () => {
  const stream = new PassThrough({ highWaterMark: 1000 })
  for (const text of ['one', 'two', 'three']) stream.write(text)
  stream.end()
  assert.deepEqual(await read(stream), ['one', 'two', 'three'])
  assert.deepEqual(await read(stream), [])
})

test('the sender has to wait for a slow reader', async () => {
  let sent = 0
  const stream = new Readable({
    highWaterMark: 1,
    read() {
      this.push(sent < 1000 ? Buffer.from(`${sent++}`) : null)
    },
  })
  let got = 0
  let most = 0
  for await (const piece of piecesOf(stream)) {
    assert.equal(piece.toString(), `${got++}`)
    most = Math.max(most, sent - got)
    await new Promise((resolve) => setImmediate(resolve))
  }
  assert.equal(got, 1000)
  assert.ok(most < 50, `${most} pieces were waiting`)
})

test('a stream that fails or is broken off is told apart from one that ends', async () => {
  const failing = new PassThrough()
  const reading = read(failing)
  failing.write('a')
  failing.destroy(new Error('the client has gone'))
  await assert.rejects(reading, /the client has gone/)

  const cut = new PassThrough()
  const cutReading = read(cut)
  cut.destroy()
  await assert.rejects(cutReading, /broke off/)
  await assert.rejects(read(cut), /broke off/)
})

test('who stops early leaves the stream as it is', async () => {
  const stream = new PassThrough()
  stream.write('a')
  for await (const piece of piecesOf(stream)) {
    assert.equal(piece.toString(), 'a')
    break
  }
  assert.equal(stream.destroyed, false)
  stream.resume().end('b')
  await once(stream, 'end')
})

test('what is freed has no length; bytes that share their memory stay', () => {
  const own = Buffer.allocUnsafeSlow(10)
  const whole = Buffer.from('abcdefgh')
  const shared = new Uint8Array(new SharedArrayBuffer(4))
  freeBytes([own, whole, shared])
  assert.equal(own.length, 0)
  assert.equal(whole.toString(), 'abcdefgh')
  assert.equal(shared.length, 4)
})
