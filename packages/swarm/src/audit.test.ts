import assert from 'node:assert/strict'
import test from 'node:test'
import { createIdentity } from '@shoal/network'
import { findLiars, type Audit } from './audit.ts'
import { alice, bob, good, hashOf, makeBook, voucher } from './testing/vouchers.ts'
import type { VoucherBook } from './voucher-book.ts'

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
