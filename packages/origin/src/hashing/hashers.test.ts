import { test } from 'node:test'
import assert from 'node:assert/strict'
import { createHash, randomBytes, randomInt } from 'node:crypto'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { digestOf } from '@shoal/oci'
import { ChunkHasher } from '@shoal/store'
import { pino } from 'pino'
import { temporaryFolder } from '../testing.ts'
import { Hashers, hashWhole } from './hashers.ts'

const logger = pino({ level: 'silent' })
const BROKEN = new URL('data:text/javascript,throw new Error("no thread here")')

function chunkHashes(bytes: Buffer): Uint8Array {
  const hasher = new ChunkHasher(bytes.length)
  hasher.update(bytes)
  return hasher.digest().hashes
}

/** Writes `bytes` to a file in random pieces, and hands each on to be hashed. */
async function grow(hashers: Hashers, bytes: Buffer, sizeBytes: number | undefined, withDescriptor: boolean) {
  await using folder = await temporaryFolder()
  await using file = await open(join(folder.path, 'blob'), 'w+')
  const hashing = hashers.create(sizeBytes === undefined ? { algorithm: 'sha256' } : { algorithm: 'sha256', sizeBytes })
  for (let at = 0; at < bytes.length;) {
    const pieces = [
      bytes.subarray(at, (at += randomInt(1, 300_000))),
      bytes.subarray(at, (at += randomInt(1, 300_000))),
    ]
    for (const piece of pieces) await file.write(piece)
    hashing.advance(withDescriptor ? { descriptor: file.fd } : {}, pieces)
  }
  assert.equal(hashing.bytes, bytes.length)
  const outcome = await hashing.finish()
  await hashing.settle()
  const source = {
    descriptor: file.fd,
    stream: async () => Readable.from([bytes.subarray(0, 1000), bytes.subarray(1000)]),
  }
  const again = await hashWhole(hashers.create({ algorithm: 'sha512', sizeBytes: bytes.length }), source)
  return { outcome, again }
}

for (const [what, script, withDescriptor] of [
  ['in the thread', undefined, true],
  ['as they pass', undefined, false],
] as const) {
  test(`hashes growing blobs ${what}`, async () => {
    const hashers = new Hashers(logger, script)
    try {
      for (const size of [0, 1, 700_000, 20_000_000]) {
        const bytes = randomBytes(size)
        const { outcome, again } = await grow(hashers, bytes, size, withDescriptor)
        assert.equal(outcome?.digest, digestOf(bytes))
        assert.deepEqual(Buffer.from(outcome?.chunkHashes ?? []), Buffer.from(chunkHashes(bytes)))
        assert.equal(again.digest, digestOf(bytes, 'sha512'))
        assert.deepEqual(Buffer.from(again.chunkHashes ?? []), Buffer.from(chunkHashes(bytes)))
        const unknown = await grow(hashers, bytes, undefined, withDescriptor)
        assert.equal(unknown.outcome?.digest, digestOf(bytes))
        assert.equal(unknown.outcome?.chunkHashes, undefined)
      }
    } finally {
      await hashers.close()
    }
  })
}

test('without a thread, hashing goes on here', async () => {
  const hashers = new Hashers(logger, BROKEN)
  const bytes = randomBytes(3_000_000)
  // Whether the thread is known to be lost before, while or after the bytes come in must not matter.
  for (let round = 0; round < 10; round++) {
    const { outcome, again } = await grow(hashers, bytes, bytes.length, true)
    if (outcome) assert.equal(outcome.digest, digestOf(bytes))
    assert.equal(again.digest, digestOf(bytes, 'sha512'))
  }
  await hashers.close()
})

test('a wrong size is noticed', async () => {
  const hashers = new Hashers(logger)
  const hashing = hashers.create({ algorithm: 'sha256', sizeBytes: 10 })
  hashing.advance({}, [Buffer.alloc(11)])
  assert.equal(await hashing.finish(), undefined)
  const short = hashers.create({ algorithm: 'sha256', sizeBytes: 10 })
  short.advance({}, [Buffer.alloc(9)])
  assert.equal(await short.finish(), undefined)
  await hashers.close()
})

test('an empty blob has the digest of nothing', async () => {
  const hashers = new Hashers(logger)
  const outcome = await hashers.create({ algorithm: 'sha256', sizeBytes: 0 }).finish()
  assert.equal(outcome?.digest, `sha256:${createHash('sha256').digest('hex')}`)
  await hashers.close()
})
