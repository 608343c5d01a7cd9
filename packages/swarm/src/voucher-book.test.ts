import assert from 'node:assert/strict'
import test from 'node:test'
import {
  createIdentity,
  encodeControlMessage,
  MAX_CONTROL_MESSAGE_BYTES,
  verifySignature,
  type ChunkVoucher,
} from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { CHUNKS, alice, bob, digest, good, hashOf, makeBook, self, voucher } from './testing/vouchers.ts'
import { vouchForBlob, VoucherBook } from './voucher-book.ts'

test('a voucher teaches the hashes of its chunks, and who said so', () => {
  const book = makeBook()
  assert.deepEqual(book.add(voucher(alice, [1, 5])), { learned: [1, 5], invalid: false })
  assert.deepEqual(book.hash(5), good[5])
  assert.equal(book.signer(5), alice.peerId)
  assert.equal(book.hash(0), undefined)
  assert.equal(book.known, 2)
})

test('a whole blob is vouched for in one piece', () => {
  const book = makeBook()
  const [whole, ...more] = vouchForBlob(digest, Buffer.concat(good), alice.peerId, (bytes) => alice.sign(bytes))
  assert.equal(book.add(whole!).learned.length, CHUNKS)
  assert.equal(book.known, CHUNKS)
  assert.deepEqual(more, [])
})

test('a blob of very many chunks is vouched for in pieces that fit into messages', () => {
  const count = 60_000
  const book = makeBook(self, count)
  const hashes = Buffer.alloc(count * 32)
  for (let chunk = 0; chunk < count; chunk++) hashes.writeUInt32BE(chunk, chunk * 32)
  for (const part of vouchForBlob(digest, hashes, alice.peerId, (bytes) => alice.sign(bytes))) {
    assert.ok(part.indices.length * 35 < MAX_CONTROL_MESSAGE_BYTES / 2)
    assert.equal(book.add(part).invalid, false)
  }
  assert.equal(book.known, count)
  assert.deepEqual(book.hash(count - 1), hashes.subarray(-32))
})

test('what its signer did not sign is invalid', () => {
  const honest = voucher(alice, [1, 2])
  const forgeries: [string, ChunkVoucher][] = [
    ['another hash', { ...honest, hashes: Buffer.concat([good[1]!, good[3]!]) }],
    ['other chunks', { ...honest, indices: [1, 3] }],
    ['another order', { ...honest, indices: [2, 1] }],
    ['another signer', { ...honest, signer: bob.peerId }],
    ['no peer id', { ...honest, signer: 'nobody' }],
    ['another signature', { ...honest, signature: new Uint8Array(64) }],
    ['no signature', { ...honest, signature: new Uint8Array() }],
    ['fewer hashes', { ...honest, hashes: honest.hashes.subarray(0, 32) }],
    ['more hashes', { ...honest, hashes: Buffer.concat([honest.hashes, good[3]!]) }],
    ['half a hash', { ...honest, hashes: honest.hashes.subarray(0, 40) }],
    ['no chunks', { ...honest, indices: [], hashes: new Uint8Array() }],
    ['chunks past the end', voucher(alice, [CHUNKS], [good[0]!])],
    ['a chunk twice', voucher(alice, [1, 2, 1])],
  ]
  for (const [what, forged] of forgeries) {
    const book = makeBook()
    assert.deepEqual(book.add(forged), { learned: [], invalid: true }, what)
    assert.equal(book.known, 0)
  }
})

test('a voucher for one blob says nothing of another', () => {
  const other = new VoucherBook({
    digest: digestOf('another blob'),
    chunkCount: CHUNKS,
    self: alice.peerId,
    sign: (bytes) => alice.sign(bytes),
    verify: verifySignature,
  })
  const { voucher: elsewhere } = other.vouch([0], good[0]!)
  assert.equal(makeBook().add(elsewhere).invalid, true)
})

test('the first word stands, also when a later one contradicts', () => {
  const book = makeBook()
  book.add(voucher(alice, [1]))
  assert.deepEqual(book.add(voucher(bob, [1, 2], [hashOf('a lie'), good[2]!])), { learned: [2], invalid: false })
  assert.deepEqual(book.hash(1), good[1])
  assert.equal(book.signer(1), alice.peerId)
  assert.equal(book.signer(2), bob.peerId)
})

test('what the origin says replaces what others said, and tells who was wrong', () => {
  const book = makeBook()
  book.add(voucher(alice, [1], [hashOf('a lie')]))
  book.add(voucher(bob, [2]))
  const { contradicted } = book.vouch([1, 2, 3], Buffer.concat([good[1]!, good[2]!, good[3]!]))
  assert.deepEqual([...contradicted], [alice.peerId])
  assert.deepEqual(book.hash(1), good[1])
  assert.equal(book.signer(1), self.peerId)
  assert.equal(book.known, 3)
  assert.equal(book.vouch([1], hashOf('the origin has changed its mind')).contradicted.size, 0, 'never itself')
})

test('who is distrusted has said nothing, and is not heard again', () => {
  const book = makeBook()
  book.add(voucher(alice, [0, 1]))
  book.add(voucher(bob, [2]))
  assert.deepEqual(book.distrust(alice.peerId), [0, 1])
  assert.equal(book.hash(0), undefined)
  assert.equal(book.known, 1)
  assert.deepEqual(book.add(voucher(alice, [3])), { learned: [], invalid: false })
  assert.deepEqual(book.add(voucher(bob, [0])).learned, [0])
})

test('vouchers are passed on as they were signed, each once', () => {
  const book = makeBook()
  book.add(voucher(alice, [0, 1, 2]))
  book.add(voucher(bob, [3]))
  const passed = book.vouchersFor([0, 1, 3, 7])
  assert.equal(passed.length, 2)
  const other = makeBook(bob)
  for (const one of passed) assert.equal(other.add(one).invalid, false)
  assert.equal(other.known, 4)
})

test('signers are all but this node', () => {
  const book = makeBook()
  book.add(voucher(alice, [0, 1]))
  book.vouch([2], good[2]!)
  assert.deepEqual(book.signers(), new Map([[alice.peerId, [0, 1]]]))
})

test('who sends what another has signed speaks with the voice of that one, and with none when it was caught', async () => {
  const book = makeBook()
  const [carol, wrong] = [await createIdentity(), hashOf('wrong')]
  const voice = (chunk: number, sender: string) => book.voiceOf(chunk, wrong.toString('hex'), sender)
  book.add(voucher(alice, [0]))
  assert.equal(voice(0, 'sender'), 'sender')
  book.add(voucher(bob, [0], [wrong]))
  assert.equal(voice(0, 'sender'), bob.peerId)
  // Two who have signed it on their own are two.
  book.add(voucher(carol, [0], [wrong]))
  assert.equal(voice(0, carol.peerId), carol.peerId)
  book.add(voucher(bob, [1], [wrong]))
  book.distrust(bob.peerId)
  assert.equal(voice(1, 'sender'), undefined)
  assert.equal(voice(0, 'sender'), carol.peerId)
})

test('who was accused of a lie and has told none is not judged a liar', () => {
  const book = makeBook()
  book.add(voucher(alice, [0, 1]))
  assert.deepEqual(book.setAside(alice.peerId), [0, 1])
  assert.deepEqual(
    book.judge((chunk) => good[chunk]),
    [],
  )
})

test('a voucher that nobody could pass on in one message is not taken', () => {
  const count = 30_000
  const sign = () => new Uint8Array(64)
  const book = new VoucherBook({ digest, chunkCount: count, self: self.peerId, sign, verify: () => true })
  const said = (chunks: number): ChunkVoucher => {
    const indices = Array.from({ length: chunks }, (_, chunk) => chunk)
    return { indices, hashes: new Uint8Array(chunks * 32), signer: alice.peerId, signature: sign() }
  }
  assert.deepEqual(book.add(said(count)), { learned: [], invalid: true })
  assert.equal(book.add(said(29_900)).learned.length, 29_900)
  const vouchers = book.vouchersFor([0])
  encodeControlMessage({ type: 'have', digest, indices: [], vouchers, complete: false, freeSlots: 0 })
})

test('who contradicts again and again costs one check, and one who invents words no more than are kept', () => {
  let checks = 0
  const verify = () => ++checks > 0
  const sign = () => new Uint8Array(64)
  const book = new VoucherBook({ digest, chunkCount: CHUNKS, self: self.peerId, sign, verify })
  book.add(voucher(alice, [0]))
  const lie = voucher(bob, [0], [hashOf('a lie')])
  checks = 0
  for (let times = 0; times < 100; times++) assert.equal(book.add(lie).invalid, false)
  assert.equal(checks, 1)
  for (let times = 0; times < 100; times++) book.add({ ...lie, hashes: hashOf(`lie ${times}`) })
  assert.equal(checks, 8)
  assert.deepEqual(book.doubts(), [0])
  // It teaches something, so it is checked.
  assert.deepEqual(book.add(voucher(bob, [0, 1], [hashOf('a lie'), good[1]!])).learned, [1])
  assert.equal(checks, 9)
})

test('a word that was heard before raises doubts again about a hash that is learned anew', async () => {
  const book = makeBook()
  const carol = await createIdentity()
  const lie = voucher(alice, [0], [hashOf('a lie')])
  book.add(lie)
  book.add(voucher(bob, [0]))
  book.forget([0])
  assert.deepEqual(book.doubts(), [])
  book.add(voucher(carol, [0], [hashOf('another lie')]))
  assert.deepEqual(book.add(voucher(bob, [0])), { learned: [], invalid: false })
  assert.deepEqual(book.doubts(), [0])
})
