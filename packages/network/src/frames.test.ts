import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import fc from 'fast-check'
import { InvalidMessageError, TransferError } from './errors.ts'
import { FrameReader, lengthPrefix } from './frames.ts'
import { decodeHello, decodeRequest, encodeRequest, frame, HEADER_BYTES, SmallFrameReader } from './transfer-frames.ts'

/** Bytes, cut at arbitrary places. */
function cut(bytes: Buffer, places: number[]): Buffer[] {
  const sorted = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b)
  return [0, ...sorted].map((start, index) => bytes.subarray(start, sorted[index] ?? bytes.length))
}

suite('frames of control channels', () => {
  test('come out as they went in, wherever the bytes are cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 400 })),
        fc.array(fc.nat(), { maxLength: 12 }),
        (frames, places) => {
          const bytes = Buffer.concat(frames.flatMap((each) => [lengthPrefix(each.byteLength), each]))
          const reader = new FrameReader(1000)
          const found = cut(bytes, places).flatMap((part) => [...reader.read(part)].map((each) => Buffer.from(each)))
          assert.deepEqual(
            found,
            frames.map((each) => Buffer.from(each)),
          )
        },
      ),
    )
  })

  test('a frame that is too long is refused before its bytes are there', () => {
    const reader = new FrameReader(1000)
    assert.equal([...reader.read(lengthPrefix(1000))].length, 0)
    for (const bytes of [
      lengthPrefix(1001),
      Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
      new Uint8Array(9).fill(0x80),
    ]) {
      assert.throws(() => [...new FrameReader(1000).read(bytes)], InvalidMessageError)
    }
  })
})

suite('frames of the transfer plane', () => {
  test('come out as they went in, wherever the bytes are cut', () => {
    const frames = fc.array(
      fc.record({ kind: fc.nat(255), request: fc.nat(), payload: fc.uint8Array({ maxLength: 300 }) }),
    )
    fc.assert(
      fc.property(frames, fc.array(fc.nat(), { maxLength: 12 }), (sent, places) => {
        const bytes = Buffer.concat(sent.map(({ kind, request, payload }) => frame(kind, request, payload)))
        const reader = new SmallFrameReader()
        const found = cut(bytes, places).flatMap((part) => [...reader.read(part)])
        assert.deepEqual(
          found.map(({ kind, request, payload }) => [kind, request, Buffer.from(payload)]),
          sent.map(({ kind, request, payload }) => [kind, request, Buffer.from(payload)]),
        )
      }),
    )
  })

  test('requests survive the way, with ids made fit for logs', () => {
    const request = fc.record({
      digest: fc
        .uint8Array({ minLength: 64, maxLength: 64 })
        .map((bytes) => Buffer.from(bytes).toString('hex'))
        .chain((hex) => fc.constantFrom(`sha512:${hex}` as const, `sha256:${hex.slice(64)}` as const)),
      index: fc.integer({ min: 0, max: 0xffff_ffff }),
      requestId: fc.string({ unit: 'binary', maxLength: 200 }),
    })
    fc.assert(
      fc.property(request, (asked) => {
        const read = decodeRequest(encodeRequest(5, asked).subarray(HEADER_BYTES))
        assert.equal(read.digest, asked.digest)
        assert.equal(read.index, asked.index)
        assert.match(read.requestId, /^[\x21-\x7e]{0,64}$/)
      }),
    )
  })

  test('random bytes are a frame or a TransferError', () => {
    const decodes: ((bytes: Buffer) => unknown)[] = [
      (bytes) => [...new SmallFrameReader().read(bytes)],
      decodeHello,
      decodeRequest,
    ]
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.constantFrom(...decodes), (bytes, decode) => {
        try {
          decode(Buffer.from(bytes))
        } catch (error) {
          assert.ok(error instanceof TransferError && error.code === 'PROTOCOL', String(error))
        }
      }),
      { numRuns: 2000 },
    )
  })
})
