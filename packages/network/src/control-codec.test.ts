import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { PbfWriter } from 'pbf'
import type { Digest } from '@shoal/oci'
import { LIMITS, UINT32 } from './codec-parts.ts'
import { decodeControlMessage, encodeControlMessage } from './control-codec.ts'
import { InvalidMessageError, UnsendableMessageError } from './errors.ts'
import type { ChunkVoucher, ControlMessage, NodeAddress } from './messages.ts'

/** Records like those the decoder makes. */
const record = <T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> =>
  fc.record(model, { noNullPrototype: true })

// ---- arbitrary messages -----------------------------------------------------------------------------------------

const hex = (bytes: number) =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((value) => Buffer.from(value).toString('hex'))
const digest: fc.Arbitrary<Digest> = fc.oneof(
  hex(32).map((value): Digest => `sha256:${value}`),
  hex(64).map((value): Digest => `sha512:${value}`),
)
const maybeDigest = fc.oneof(digest, fc.constant('' as const))
const text = fc.string({ unit: 'binary', maxLength: 30 })
const name = fc.string({ unit: 'binary', minLength: 1, maxLength: 30 })
const size = fc.maxSafeNat()
const uint32 = fc.integer({ min: 0, max: UINT32 })
const index = fc.integer({ min: 0, max: LIMITS.index })
const indices = fc.array(index, { maxLength: 50 })
const bitField = fc.uint8Array({ maxLength: 100 })
const bool = fc.boolean()
const node: fc.Arbitrary<NodeAddress> = record({
  peerId: text,
  multiaddrs: fc.array(name, { maxLength: 5 }),
  transfer: text,
  zone: text,
})
const voucher: fc.Arbitrary<ChunkVoucher> = indices.chain((chosen) =>
  record({
    indices: fc.constant(chosen),
    hashes: fc.uint8Array({ minLength: chosen.length * 32, maxLength: chosen.length * 32 }),
    signer: text,
    signature: fc.uint8Array({ maxLength: 64 }),
  }),
)
const nodes = fc.array(node, { maxLength: 4 })
const vouchers = fc.array(voucher, { maxLength: 3 })
const is = <T extends string>(type: T) => fc.constant(type)

/** One arbitrary for each kind: a kind that is forgotten here does not compile. */
const KINDS: { [K in ControlMessage['type']]: fc.Arbitrary<Extract<ControlMessage, { type: K }>> } = {
  hello: record({ type: is('hello'), version: uint32, agent: text, node, instance: hex(8), sequence: size }),
  'swarm-join': record({
    type: is('swarm-join'),
    digest,
    sizeBytes: size,
    mediaType: text,
    chunks: bitField,
    complete: bool,
    vouchers,
    reply: bool,
    freeSlots: uint32,
  }),
  'swarm-refuse': record({
    type: is('swarm-refuse'),
    digest,
    reason: fc.constantFrom('unknown' as const, 'full' as const),
    others: nodes,
  }),
  'swarm-leave': record({ type: is('swarm-leave'), digest }),
  have: record({ type: is('have'), digest, indices, vouchers, complete: bool, freeSlots: uint32 }),
  lost: record({ type: is('lost'), digest, indices }),
  claim: record({ type: is('claim'), digest, indices, active: bool }),
  'hash-query': record({ type: is('hash-query'), digest, indices }),
  'tag-query': record({ type: is('tag-query'), requestId: size, reference: name }),
  'tag-known': record({
    type: is('tag-known'),
    requestId: size,
    digest: maybeDigest,
    mediaType: text,
    sizeBytes: size,
    ageMs: size,
  }),
  'tracker-join': record({
    type: is('tracker-join'),
    digest,
    sizeBytes: size,
    originHost: text,
    chunks: bitField,
    complete: bool,
    leaseCredit: uint32,
  }),
  'tracker-holdings': record({
    type: is('tracker-holdings'),
    blobs: fc.array(record({ digest, sizeBytes: size }), { maxLength: 5 }),
  }),
  'tracker-leave': record({ type: is('tracker-leave'), digest }),
  'tracker-peers-wanted': record({
    type: is('tracker-peers-wanted'),
    digest,
    exclude: fc.array(name, { maxLength: 5 }),
  }),
  'tracker-peers': record({ type: is('tracker-peers'), digest, sizeBytes: size, members: uint32, peers: nodes }),
  'lease-grant': record({
    type: is('lease-grant'),
    digest,
    leaseId: size,
    first: index,
    count: index,
    idleLimitMs: uint32,
    source: fc.option(node, { nil: undefined }),
  }),
  'lease-progress': record({ type: is('lease-progress'), digest, leaseId: size, receivedBytes: size }),
  'lease-done': record({
    type: is('lease-done'),
    digest,
    leaseId: size,
    fetched: indices,
    originBackoffMs: uint32,
    failed: bool,
  }),
  'tracker-progress': record({
    type: is('tracker-progress'),
    digest,
    chunks: bitField,
    complete: bool,
    leaseCredit: uint32,
  }),
  'tag-ask': record({ type: is('tag-ask'), requestId: size, reference: name }),
  'tag-lookup': record({ type: is('tag-lookup'), requestId: size, reference: name }),
  'tag-result': record({
    type: is('tag-result'),
    requestId: size,
    reference: text,
    digest: maybeDigest,
    mediaType: text,
    sizeBytes: size,
    errorCode: text,
  }),
  'tag-answer': record({
    type: is('tag-answer'),
    requestId: size,
    reference: text,
    digest: maybeDigest,
    mediaType: text,
    sizeBytes: size,
    stale: bool,
    errorCode: text,
  }),
  'peer-report': record({ type: is('peer-report'), digest, peerId: text, reason: text }),
  'preheat-order': record({
    type: is('preheat-order'),
    preheatId: hex(8),
    image: text,
    platform: text,
    action: fc.constantFrom('pull' as const, 'pin' as const, 'unpin' as const),
  }),
  'preheat-cancel': record({ type: is('preheat-cancel'), preheatId: hex(8) }),
  'preheat-report': record({
    type: is('preheat-report'),
    preheatId: hex(8),
    state: fc.constantFrom('waiting' as const, 'running' as const, 'done' as const, 'failed' as const),
    digest: maybeDigest,
    totalBytes: size,
    receivedBytes: size,
    fromPeersBytes: size,
    fromOriginBytes: size,
    errorCode: text,
    reason: text,
  }),
}
const anyMessage: fc.Arbitrary<ControlMessage> = fc.oneof(...Object.values(KINDS))

/** Either a message or the one error that is meant for bad bytes; anything else fails the test. */
function decodeOrRefuse(bytes: Uint8Array): ControlMessage | undefined {
  try {
    return decodeControlMessage(bytes)
  } catch (error) {
    assert.ok(error instanceof InvalidMessageError, String(error))
    return undefined
  }
}

suite('control codec', () => {
  for (const [kind, arbitrary] of Object.entries(KINDS)) {
    test(`round trip of ${kind}`, () => {
      fc.assert(
        fc.property(arbitrary as fc.Arbitrary<ControlMessage>, (message) => {
          // Typed arrays compare by their class too: fast-check gives plain ones, as the decoder does.
          assert.deepEqual(decodeControlMessage(encodeControlMessage(message)), message)
        }),
        { numRuns: 60 },
      )
    })
  }

  test('random bytes are a message or an InvalidMessageError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        decodeOrRefuse(bytes)
      }),
      { numRuns: 3000 },
    )
  })

  test('a message that was changed or cut is a message or an InvalidMessageError', () => {
    const damage = record({ at: fc.nat(), to: fc.nat(255), cut: fc.nat() })
    fc.assert(
      fc.property(anyMessage, damage, (message, { at, to, cut }) => {
        const bytes = Uint8Array.from(encodeControlMessage(message))
        decodeOrRefuse(bytes.subarray(0, cut % bytes.length))
        bytes[at % bytes.length] = to
        decodeOrRefuse(bytes)
      }),
      { numRuns: 2000 },
    )
  })

  test('unknown fields are tolerated at every level, unknown kinds are no message', () => {
    const digestBytes = Buffer.concat([Buffer.from([0x12, 32]), Buffer.alloc(32, 7)])
    const writer = new PbfWriter()
    writer.writeMessage(
      19, // tracker-peers
      (_, peers) => {
        peers.writeVarintField(200, 5)
        peers.writeBytesField(1, digestBytes)
        peers.writeBytesField(201, Buffer.alloc(100))
        peers.writeMessage(
          4,
          (_, node) => {
            node.writeStringField(1, 'peer')
            node.writeDoubleField(99, 1.5)
            node.writeFixed32Field(98, 7)
          },
          undefined,
        )
      },
      undefined,
    )
    writer.writeStringField(300, 'later')
    assert.deepEqual(decodeControlMessage(writer.finish()), {
      type: 'tracker-peers',
      digest: `sha256:${'07'.repeat(32)}`,
      sizeBytes: 0,
      members: 0,
      peers: [{ peerId: 'peer', multiaddrs: [], transfer: '', zone: '' }],
    })

    const later = new PbfWriter()
    later.writeMessage(4000, (_, inner) => inner.writeStringField(1, 'what is this'), undefined)
    assert.equal(decodeControlMessage(later.finish()), undefined)
    assert.equal(decodeControlMessage(new Uint8Array()), undefined)
  })

  test('numbers that are not packed are read too', () => {
    const writer = new PbfWriter()
    writer.writeMessage(
      6, // lost
      (_, lost) => {
        lost.writeBytesField(1, Buffer.concat([Buffer.from([0x12, 32]), Buffer.alloc(32)]))
        lost.writeVarintField(2, 9)
        lost.writePackedVarint(2, [300, 1])
      },
      undefined,
    )
    assert.deepEqual(decodeControlMessage(writer.finish()), {
      type: 'lost',
      digest: `sha256:${'00'.repeat(32)}`,
      indices: [9, 300, 1],
    })
  })

  const raw = (field: number, write: (writer: PbfWriter) => void): Uint8Array => {
    const writer = new PbfWriter()
    writer.writeMessage(field, (_, inner) => write(inner), undefined)
    return writer.finish()
  }
  const held = (writer: PbfWriter): void =>
    writer.writeMessage(
      1,
      (_, v) => v.writeBytesField(1, Buffer.concat([Buffer.from([0x12, 32]), Buffer.alloc(32)])),
      undefined,
    )
  const ofLength = (bytes: number[]): Uint8Array => Uint8Array.from(bytes)
  const refused: [string, Uint8Array][] = [
    ['no digest', raw(4, () => undefined)],
    ['short digest', raw(4, (w) => w.writeBytesField(1, Buffer.from([0x12, 32, 1, 2])))],
    [
      'digest of another hash',
      raw(4, (w) => w.writeBytesField(1, Buffer.concat([Buffer.from([0x11, 20]), Buffer.alloc(20)]))),
    ],
    ['digest as a number', raw(4, (w) => w.writeVarintField(1, 5))],
    ['too large an index', raw(6, (w) => w.writePackedVarint(2, [LIMITS.index + 1]))],
    ['too many indices', raw(6, (w) => w.writePackedVarint(2, new Array<number>(LIMITS.indices + 1).fill(0)))],
    ['too many holdings', raw(32, (w) => new Array(LIMITS.holdings + 1).fill(0).forEach(() => held(w)))],
    ['a holding without a digest', raw(32, (w) => w.writeMessage(1, (_, v) => v.writeVarintField(2, 5), undefined))],
    ['too long a text', raw(8, (w) => w.writeStringField(2, 'x'.repeat(LIMITS.referenceBytes + 1)))],
    ['a text that is not UTF-8', raw(8, (w) => w.writeBytesField(2, Buffer.from([0xff, 0xfe, 0xfd])))],
    ['a number above 2^53', raw(8, (w) => w.writeBytesField(1, Buffer.alloc(0)))],
    [
      'hashes that do not fit the indices',
      raw(5, (w) => w.writeMessage(3, (_, v) => v.writePackedVarint(1, [1, 2]), undefined)),
    ],
    ['a length beyond the end', ofLength([0x2a, 0xff, 0xff, 0xff, 0xff, 0x0f])],
    ['a length of 2^63', ofLength([0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])],
    ['a varint without an end', ofLength([0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])],
    ['a group', ofLength([0x2b, 0x2c])],
    ['field number 0', ofLength([0x02, 0x00])],
    ['nested past its parent', ofLength([0x1a, 0x03, 0x1a, 0x05, 0x01, 0x01, 0x01, 0x01, 0x01])],
  ]
  for (const [what, bytes] of refused) {
    test(`refuses ${what}`, () => {
      assert.throws(() => decodeControlMessage(bytes), InvalidMessageError)
    })
  }

  test('what the other side would refuse is refused by the sender', () => {
    const digest: Digest = `sha256:${'ab'.repeat(32)}`
    const messages: ControlMessage[] = [
      { type: 'lost', digest: 'sha256:abc', indices: [] },
      { type: 'lost', digest, indices: [-1] },
      { type: 'lost', digest, indices: [LIMITS.index + 1] },
      { type: 'lost', digest, indices: [0.5] },
      { type: 'tracker-holdings', blobs: new Array(LIMITS.holdings + 1).fill({ digest, sizeBytes: 1 }) },
      { type: 'tag-query', requestId: Number.NaN, reference: 'x' },
      { type: 'tag-query', requestId: 1, reference: 'x'.repeat(LIMITS.referenceBytes + 1) },
      {
        type: 'tracker-progress',
        digest,
        chunks: new Uint8Array(LIMITS.bitFieldBytes + 1),
        complete: false,
        leaseCredit: 0,
      },
    ]
    for (const message of messages) assert.throws(() => encodeControlMessage(message), UnsendableMessageError)
  })

  test('a reason for people is cut, not refused', () => {
    const digest: Digest = `sha256:${'ab'.repeat(32)}`
    const reason = 'ü'.repeat(LIMITS.reasonBytes)
    const decoded = decodeControlMessage(encodeControlMessage({ type: 'peer-report', digest, peerId: 'p', reason }))
    assert.ok(decoded?.type === 'peer-report' && reason.startsWith(decoded.reason) && decoded.reason.length > 500)
  })
})

test('digests that begin alike are told apart, however often they come', () => {
  const read = (named: Digest) => {
    const message = decodeControlMessage(encodeControlMessage({ type: 'swarm-leave', digest: named }))
    return message?.type === 'swarm-leave' ? message.digest : undefined
  }
  const alike = ['00', '11', '22'].map((end): Digest => `sha256:${'ab'.repeat(31)}${end}`)
  const longer: Digest = `sha512:${'ab'.repeat(64)}`
  for (let round = 0; round < 3; round++) for (const named of [...alike, longer]) assert.equal(read(named), named)
  // More than are remembered.
  for (let number = 0; number < 1000; number++) {
    const named: Digest = `sha256:${number.toString(16).padStart(8, '0')}${'cd'.repeat(28)}`
    assert.equal(read(named), named)
  }
  for (const named of [...alike, longer]) assert.equal(read(named), named)
})
