import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import test from 'node:test'
import { createIdentity, verifySignature, type ChunkVoucher, type Identity } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { findLiars, type Audit } from './audit.ts'
import { vouchForBlob, VoucherBook } from './voucher-book.ts'

const digest = digestOf('blob')
const CHUNKS = 8
const [self, alice, bob] = await Promise.all([createIdentity(), createIdentity(), createIdentity()])
const hashOf = (text: string) => createHash('sha256').update(text).digest()
const good = Array.from({ length: CHUNKS }, (_, chunk) => hashOf(`chunk ${chunk}`))

function makeBook(identity: Identity = self, chunkCount = CHUNKS): VoucherBook {
  const sign = (bytes: Uint8Array) => identity.sign(bytes)
  return new VoucherBook({ digest, chunkCount, self: identity.peerId, sign, verify: verifySignature })
}

/** What `identity` says of chunks, in its own hand. */
function voucher(identity: Identity, chunks: number[], hashes = chunks.map((chunk) => good[chunk]!)): ChunkVoucher {
  return makeBook(identity, 1000).vouch(chunks, Buffer.concat(hashes)).voucher
}

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
  const whole = vouchForBlob(digest, Buffer.concat(good), alice.peerId, (bytes) => alice.sign(bytes))
  assert.equal(book.add(whole).learned.length, CHUNKS)
  assert.equal(book.known, CHUNKS)
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

// ---- the audit --------------------------------------------------------------------------------------------------

/** The origin, with a count of what it was asked for. */
function origin() {
  const asked: number[] = []
  return {
    asked,
    fetch: async (chunk: number) => {
      asked.push(chunk)
      return Buffer.from(`chunk ${chunk}`)
    },
  }
}

const audit = (book: VoucherBook, fetchChunk: Audit['fetchChunk'], self = 'self') => {
  const expose = async (chunk: number) => void book.distrust(book.signer(chunk)!)
  const setAside = async (signer: string) => void book.setAside(signer)
  return findLiars({ book, self, fetchChunk, expose, setAside })
}

test('the audit finds who lied about one chunk, and asks no chunk twice', async () => {
  for (let lie = 0; lie < 4; lie++) {
    const book = makeBook()
    book.add(
      voucher(
        alice,
        [0, 1, 2, 3],
        [0, 1, 2, 3].map((chunk) => (chunk === lie ? hashOf('a lie') : good[chunk]!)),
      ),
    )
    book.add(voucher(bob, [4, 5, 6, 7]))
    const { asked, fetch } = origin()
    assert.deepEqual(await audit(book, fetch), new Set([alice.peerId]))
    assert.equal(new Set(asked).size, asked.length)
  }
})

test('who lied about everything is found with the first chunk of it', async () => {
  const book = makeBook()
  book.add(
    voucher(
      alice,
      [0, 1, 2, 3],
      [0, 1, 2, 3].map((chunk) => hashOf(`lie ${chunk}`)),
    ),
  )
  book.add(voucher(bob, [4, 5, 6, 7]))
  const { asked, fetch } = origin()
  assert.deepEqual(await audit(book, fetch), new Set([alice.peerId]))
  assert.ok(asked.length <= 2, 'one chunk of each signer at most')
})

test('several liars are found one by one; where the origin agrees with all, nobody is', async () => {
  const book = makeBook()
  book.add(voucher(alice, [0], [hashOf('lie')]))
  book.add(voucher(bob, [1], [hashOf('lie')]))
  const found = [...(await audit(book, origin().fetch)), ...(await audit(book, origin().fetch))]
  assert.deepEqual(new Set(found), new Set([alice.peerId, bob.peerId]))
  const honest = makeBook()
  honest.add(voucher(alice, [0, 1, 2]))
  const { asked, fetch } = origin()
  assert.equal((await audit(honest, fetch)).size, 0)
  assert.equal(asked.length, 3)
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

test('what others have found is looked at first, and each node begins with another signer', async () => {
  const book = makeBook()
  const signers = [alice, bob].sort((one, other) => (one.peerId < other.peerId ? -1 : 1))
  book.add(voucher(signers[0]!, [0, 1, 2, 3]))
  book.add(
    voucher(
      signers[1]!,
      [4, 5, 6, 7],
      [4, 5, 6, 7].map((chunk) => hashOf(`lie ${chunk}`)),
    ),
  )
  for (const [at, first] of [
    [0, 4],
    [1, 0],
  ] as const) {
    const asked: number[] = []
    const seen = (chunk: number) => {
      asked.push(chunk)
      return Promise.reject(new Error('enough'))
    }
    await assert.rejects(audit(book, seen, `${signers[at]!.peerId}!`))
    assert.equal(asked[0]! & 4, first)
  }
  // A third node has compared chunk 6.
  assert.deepEqual(book.add(voucher(signers[0]!, [6])), { learned: [], invalid: false })
  assert.deepEqual(book.doubts(), [6])
  const { asked, fetch } = origin()
  assert.deepEqual(await audit(book, fetch), new Set([signers[1]!.peerId]))
  assert.deepEqual(asked, [6])
  assert.deepEqual(book.doubts(), [])
})

test('what two others have found is not asked of the origin again, and judged when the blob is right', async () => {
  const [carol, dave] = [await createIdentity(), await createIdentity()]
  const book = makeBook()
  book.add(voucher(alice, [0, 1, 2], [hashOf('lie'), good[1]!, good[2]!]))
  book.add(voucher(bob, [3, 4]))
  book.add(voucher(carol, [0]))
  assert.deepEqual(book.accused(), [], 'one of the two lies')
  book.add(voucher(dave, [1], [hashOf('another lie')]))
  assert.deepEqual(book.accused(), [], 'these two do not agree')
  book.add(voucher(dave, [0]))
  assert.deepEqual(book.accused(), [alice.peerId])
  const { asked, fetch } = origin()
  assert.deepEqual(await audit(book, fetch), new Set([alice.peerId]))
  assert.deepEqual(asked, [])
  assert.deepEqual(
    [0, 1, 2, 3].map((chunk) => book.hash(chunk) === undefined),
    [true, true, true, false],
  )
  assert.deepEqual(book.add(voucher(alice, [0])).learned, [], 'its word does not count meanwhile')
  assert.deepEqual(
    book.judge((chunk) => good[chunk]),
    [alice.peerId],
  )
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

test('an accusation ends a question to the origin that is under way', async () => {
  const [carol, dave] = [await createIdentity(), await createIdentity()]
  const book = makeBook()
  book.add(voucher(alice, [0, 1], [hashOf('lie'), good[1]!]))
  book.add(voucher(carol, [0]))
  const hangs = (_: number, signal: AbortSignal) =>
    new Promise<Uint8Array>((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(new Error('stopped')))
      book.add(voucher(dave, [0]))
    })
  assert.deepEqual(await audit(book, hangs), new Set([alice.peerId]))
})

test('the audit ends when the liar is caught by other means meanwhile', async () => {
  const book = makeBook()
  book.add(voucher(alice, [0, 1], [hashOf('lie'), good[1]!]))
  book.add(voucher(bob, [2, 3]))
  const asked: number[] = []
  const caughtMeanwhile = async (chunk: number) => {
    asked.push(chunk)
    book.distrust(alice.peerId)
    return Buffer.from(`chunk ${chunk}`)
  }
  assert.deepEqual(await audit(book, caughtMeanwhile), new Set([alice.peerId]))
  assert.equal(asked.length, 1)
})
