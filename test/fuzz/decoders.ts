// Every decoder of bytes that come from outside, with good inputs to begin with and the errors that it may throw. Whatever
// the input, a decoder gives a value or one of its own errors; what it accepted means the same when it is written again.
import assert from 'node:assert/strict'
import { InvalidDigestError, parseDigest } from '../../packages/oci/src/digest.ts'
import { InvalidManifestError, parseManifest } from '../../packages/oci/src/manifest.ts'
import { InvalidPlatformError, parsePlatform } from '../../packages/oci/src/platform.ts'
import { formatReference, InvalidReferenceError, parseReference } from '../../packages/oci/src/reference.ts'
import { OciError } from '../../packages/oci/src/errors.ts'
import { ChunkMap } from '../../packages/store/src/chunk-map.ts'
import { DockerConfigError, parseDockerConfig } from '../../packages/upstream/src/docker-config.ts'
import { parseChallenges } from '../../packages/upstream/src/challenge.ts'
import { nextPage, parseChunkList } from '../../packages/upstream/src/listings.ts'
import { checkName, parseRegistryPath } from '../../packages/registry/src/path.ts'
import { matchesEntityTag, parseRange, parseUploadRange } from '../../packages/registry/src/range.ts'
import { parseEndpoint } from '../../packages/network/src/addresses.ts'
import { decodeControlMessage, encodeControlMessage } from '../../packages/network/src/control-codec.ts'
import { InvalidMessageError, NetworkError, SwarmKeyError, TransferError } from '../../packages/network/src/errors.ts'
import { FrameReader, lengthPrefix } from '../../packages/network/src/frames.ts'
import { verifySignature } from '../../packages/network/src/identity.ts'
import { parseSwarmKeys } from '../../packages/network/src/swarm-key.ts'
import {
  decodeHello,
  decodeRequest,
  encodeHello,
  encodeRequest,
  frame,
  SmallFrameReader,
} from '../../packages/network/src/transfer-frames.ts'
import { InvalidAccountError, parseHtpasswd } from '../../packages/origin/src/accounts/htpasswd.ts'
import { ConfigError } from '../../packages/cli/src/config/mistakes.ts'
import { parseQuantity, QuantityError } from '../../packages/cli/src/config/quantities.ts'
import { parseYaml } from '../../packages/cli/src/config/yaml-file.ts'
import { controlMessages, DIGEST, MANIFEST, INDEX, texts } from './examples.ts'

type ErrorClass = abstract new (...args: never[]) => Error

export interface Decoder {
  name: string
  /** Good inputs. */
  seeds: Uint8Array[]
  /** Pieces that mean something in them. */
  words: Uint8Array[]
  /** Errors that are an answer. */
  errors: ErrorClass[]
  /** Decodes, and asserts what must hold for all that was accepted. */
  decode: (input: Buffer) => unknown
}

const bytesOf = (...values: string[]): Uint8Array[] => values.map((value) => Buffer.from(value))

function text(
  name: string,
  seeds: string[],
  words: string[],
  errors: ErrorClass[],
  decode: (input: string) => unknown,
): Decoder {
  const decodeText = (input: Buffer): unknown => decode(input.toString())
  return { name, seeds: bytesOf(...seeds), words: bytesOf(...words), errors, decode: decodeText }
}

const framed = (bytes: Uint8Array): Uint8Array => Buffer.concat([lengthPrefix(bytes.byteLength), bytes])

/** The same frames come out however the bytes are cut. */
function sameHoweverCut(input: Buffer, read: (pieces: Buffer[]) => unknown[]): void {
  const middle = input.byteLength >> 1
  assert.deepEqual(read([input.subarray(0, middle), input.subarray(middle)]), read([input]))
}

const messages = controlMessages.map((message) => encodeControlMessage(message))
const hello = encodeHello({
  version: 1,
  peerId: '12D3KooW',
  proof: Buffer.alloc(32, 1),
  signature: Buffer.alloc(64, 2),
})
const request = encodeRequest(7, { digest: DIGEST, index: 3, requestId: 'req-1' })
const FRAME_HEADER_BYTES = 9
const location = {
  settings: { baseUrl: new URL('https://registry.test/prefix/') },
  path: 'org/app/tags/list?n=100',
} as unknown as Parameters<typeof nextPage>[1]

export const DECODERS: Decoder[] = [
  {
    name: 'control message',
    seeds: messages,
    words: [Buffer.from('0a', 'hex'), Buffer.from('ffffffffffffffff7f', 'hex'), ...messages.slice(0, 4)],
    errors: [InvalidMessageError],
    decode: (input) => {
      const message = decodeControlMessage(input)
      if (message !== undefined) assert.deepEqual(decodeControlMessage(encodeControlMessage(message)), message)
    },
  },
  {
    name: 'control frames',
    seeds: messages.map(framed),
    words: [Buffer.from('80', 'hex'), Buffer.from('ffffffff0f', 'hex')],
    errors: [InvalidMessageError],
    decode: (input) => {
      sameHoweverCut(input, (pieces) => {
        const reader = new FrameReader(1000)
        return pieces.flatMap((piece) => [...reader.read(piece)].map((each) => Buffer.from(each).toString('hex')))
      })
    },
  },
  {
    name: 'transfer frames',
    seeds: [hello, request, frame(3, 7)],
    words: [Buffer.from('00000005', 'hex'), Buffer.from('ffffffff', 'hex'), request],
    errors: [TransferError],
    decode: (input) => {
      sameHoweverCut(input, (pieces) => {
        const reader = new SmallFrameReader()
        return pieces.flatMap((piece) =>
          [...reader.read(piece)].map((each) => ({ ...each, payload: Buffer.from(each.payload).toString('hex') })),
        )
      })
    },
  },
  {
    name: 'transfer hello',
    seeds: [hello.subarray(FRAME_HEADER_BYTES)],
    words: [Buffer.alloc(32), Buffer.from('12D3')],
    errors: [TransferError],
    decode: decodeHello,
  },
  {
    name: 'transfer request',
    seeds: [request.subarray(FRAME_HEADER_BYTES)],
    words: [Buffer.from('1220', 'hex'), Buffer.from('1340', 'hex')],
    errors: [TransferError],
    decode: (input) => {
      const decoded = decodeRequest(input)
      const again = decodeRequest(encodeRequest(1, decoded).subarray(FRAME_HEADER_BYTES))
      assert.deepEqual(again, decoded)
    },
  },
  {
    name: 'signature and peer id',
    seeds: bytesOf(
      '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN',
      'QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N',
    ),
    words: bytesOf('12D3KooW', 'Qm', '1'),
    errors: [],
    decode: (input) => {
      assert.equal(verifySignature(input.toString('latin1'), input, input.subarray(0, 64)), false)
    },
  },
  {
    name: 'chunk map',
    seeds: [Buffer.alloc(2), Buffer.from('ff03', 'hex')],
    words: [Buffer.from('ff', 'hex')],
    errors: [RangeError],
    decode: (input) => assert.deepEqual(Buffer.from(ChunkMap.fromBytes(10, input).toBytes()), input),
  },
  {
    name: 'manifest',
    seeds: bytesOf(MANIFEST, INDEX),
    words: bytesOf('[', '{"a":', '"layers"', '"size":-1', '1e999', DIGEST, '\\u0000', '"mediaType"', ',', '}'),
    errors: [InvalidManifestError, InvalidDigestError],
    decode: (input) => parseManifest(input),
  },
  text('digest', [DIGEST], ['sha256:', 'sha512:', '00', '/'], [InvalidDigestError], (input) => {
    assert.equal(parseDigest(input), input)
  }),
  text(
    'image reference',
    texts.references,
    ['/', ':', '@', '..', '[::1]', '%2f', DIGEST],
    [InvalidReferenceError],
    (input) => {
      const reference = parseReference(input)
      assert.deepEqual(parseReference(formatReference(reference)), reference)
      assert.doesNotMatch(reference.repository, /(^|\/)\.\.?(\/|$)|\\|\0/)
    },
  ),
  text('platform', ['linux/amd64', 'linux/arm/v7'], ['/', 'linux', 'v8'], [InvalidPlatformError], parsePlatform),
  text(
    'registry path',
    texts.paths,
    ['/v2/', '..', '%2e%2e', '%2F', '//', '?', '_', 'blobs/', 'uploads/'],
    [OciError],
    (input) => {
      const path = parseRegistryPath(input)
      if (path === undefined || !('name' in path)) return
      assert.doesNotMatch(checkName(path.name, true), /(^|\/)\.\.?(\/|$)|\\|\0/)
    },
  ),
  text('range', texts.ranges, ['bytes=', '-', ',', '99999999999999999999', ' '], [], (input) => {
    const range = parseRange(input, 1000)
    if (range !== undefined && range !== 'unsatisfiable') {
      assert.ok(range.start >= 0 && range.start <= range.end && range.end < 1000)
    }
  }),
  text('upload range', ['0-99', 'bytes 0-99/100'], ['-', '99999999999999999999'], [], (input) => {
    const range = parseUploadRange(input)
    if (range !== undefined) assert.ok(range.start >= 0 && range.start <= range.end && Number.isSafeInteger(range.end))
  }),
  text('entity tag', ['"sha256:aa"', 'W/"a", *'], ['"', ',', '*', 'W/'], [], (input) =>
    matchesEntityTag(input, DIGEST),
  ),
  text('challenge', texts.challenges, ['Bearer ', 'realm=', '"', '\\', ',', '='], [], (input) => {
    for (const { scheme } of parseChallenges(input)) assert.notEqual(scheme, '')
  }),
  text('link header', texts.links, ['<', '>', '; rel="next"', '?n=1', 'https://evil.test/'], [], (input) => {
    const next = nextPage(input, location)
    if (next !== undefined) assert.ok(next.startsWith('org/app/tags/list?'), next)
  }),
  text('chunk list of an origin', texts.chunkLists, ['"size":', '"hashes":', '[', '1e9'], [SyntaxError], (input) => {
    parseChunkList(JSON.parse(input))
  }),
  text(
    'docker config',
    texts.dockerConfigs,
    ['"auths":', '"auth":', 'OnA=', '{', '__proto__'],
    [DockerConfigError],
    (input) => {
      parseDockerConfig(input, 'config.json')
    },
  ),
  text('endpoint', texts.endpoints, [':', '/ip4/', '/p2p/', '[::1]', '99999'], [NetworkError], parseEndpoint),
  text(
    'swarm key file',
    [`shoal-swarm-key-v1:${Buffer.alloc(32, 5).toString('base64')}\n# a comment\n`],
    ['=', '\n', 'shoal-swarm-key-v1:'],
    [SwarmKeyError],
    (input) => {
      for (const key of parseSwarmKeys(input, 'a file')) assert.equal(key.byteLength, 32)
    },
  ),
  text(
    'htpasswd file',
    [`ann:$2y$10$${'a'.repeat(53)}\n`],
    [':', '\n', '$2y$', '#'],
    [InvalidAccountError],
    parseHtpasswd,
  ),
  text(
    'configuration file',
    texts.configs,
    ['&a ', '*a', '- ', '{', '[', ': ', '\n  ', '!!binary ', '<<: ', '? '],
    [ConfigError],
    (input) => {
      parseYaml(input, 'file')
    },
  ),
  text('quantity', ['10MiB', '500MB', '0'], ['e', '-', '.', 'GiB', ' '], [QuantityError], (input) => {
    const value = parseQuantity(input, 'bytes')
    assert.ok(Number.isFinite(value) && value >= 0)
  }),
]
