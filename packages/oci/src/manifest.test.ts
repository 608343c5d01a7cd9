import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf, isDigest } from './digest.ts'
import {
  blobsOf,
  childrenOf,
  describeManifest,
  detectMediaType,
  InvalidManifestError,
  isForeignLayer,
  MAX_DESCRIPTORS,
  MAX_MANIFEST_BYTES,
  parseDescriptor,
  parseManifest,
  type ImageManifest,
  type InvalidManifestCode,
} from './manifest.ts'
import {
  MEDIA_TYPE_DOCKER_CONFIG,
  MEDIA_TYPE_DOCKER_LAYER,
  MEDIA_TYPE_DOCKER_MANIFEST,
  MEDIA_TYPE_DOCKER_MANIFEST_LIST,
  MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED,
  MEDIA_TYPE_OCI_CONFIG,
  MEDIA_TYPE_OCI_EMPTY,
  MEDIA_TYPE_OCI_INDEX,
  MEDIA_TYPE_OCI_LAYER_GZIP,
  MEDIA_TYPE_OCI_MANIFEST,
} from './media-types.ts'

const config = { mediaType: MEDIA_TYPE_OCI_CONFIG, digest: digestOf('config'), size: 6 }
const layer = { mediaType: MEDIA_TYPE_OCI_LAYER_GZIP, digest: digestOf('layer'), size: 5 }
const image = { schemaVersion: 2, mediaType: MEDIA_TYPE_OCI_MANIFEST, config, layers: [layer] }
const child = {
  mediaType: MEDIA_TYPE_OCI_MANIFEST,
  digest: digestOf('child'),
  size: 7,
  platform: { os: 'linux', architecture: 'arm', variant: 'v7', 'os.version': '1', 'os.features': ['x'] },
}
const index = { schemaVersion: 2, mediaType: MEDIA_TYPE_OCI_INDEX, manifests: [child] }

const encode = (value: unknown): Uint8Array =>
  new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value))

function refuses(value: unknown, code: InvalidManifestCode, message: RegExp, contentType?: string): void {
  assert.throws(
    () => parseManifest(value instanceof Uint8Array ? value : encode(value), contentType),
    (error) => error instanceof InvalidManifestError && error.code === code && message.test(error.message),
    JSON.stringify(value)?.slice(0, 200),
  )
}

test('an OCI image manifest with everything on it', () => {
  const parsed = parseManifest(
    encode({
      ...image,
      artifactType: 'application/vnd.example+type',
      subject: child,
      annotations: { 'org.example': 'yes', __proto__x: 'odd' },
      future: { field: [1, { two: 3 }] },
    }),
    `${MEDIA_TYPE_OCI_MANIFEST}; charset=utf-8`,
  )
  assert.equal(parsed.kind, 'image')
  assert.equal(parsed.mediaType, MEDIA_TYPE_OCI_MANIFEST)
  assert.equal(parsed.artifactType, 'application/vnd.example+type')
  assert.equal(parsed.subject?.digest, child.digest)
  assert.deepEqual(parsed.annotations, { 'org.example': 'yes', __proto__x: 'odd' })
  assert.deepEqual(blobsOf(parsed), [config, layer])
  assert.deepEqual(childrenOf(parsed), [])
})

test('an index names its children with their platforms', () => {
  const parsed = parseManifest(encode(index), MEDIA_TYPE_OCI_INDEX)
  assert.equal(parsed.kind, 'index')
  assert.deepEqual(blobsOf(parsed), [])
  assert.deepEqual(childrenOf(parsed), [
    {
      mediaType: MEDIA_TYPE_OCI_MANIFEST,
      digest: child.digest,
      size: 7,
      platform: { os: 'linux', architecture: 'arm', variant: 'v7', osVersion: '1', osFeatures: ['x'] },
    },
  ])
})

test('an image that is sent as an index is refused, whatever it leaves out', () => {
  const bare = { schemaVersion: 2, config, layers: [layer] }
  for (const document of [bare, { ...bare, config: undefined }, { ...bare, layers: undefined }]) {
    for (const type of [MEDIA_TYPE_OCI_INDEX, MEDIA_TYPE_DOCKER_MANIFEST_LIST]) {
      refuses(document, 'MALFORMED', /but it has "layers" or "config"/, type)
    }
  }
  refuses({ schemaVersion: 2, manifests: [child] }, 'MALFORMED', /but it has "manifests"/, MEDIA_TYPE_OCI_MANIFEST)
})

test('a field that registries in Go would take for another one is refused', () => {
  for (const name of ['Layers', 'LAYERS', 'layer\u017f', 'Config', 'Manifests', 'MediaType', 'schemaversion']) {
    refuses({ ...image, [name]: [] }, 'MALFORMED', /^invalid manifest: the document has "/)
  }
  const other = digestOf('other')
  refuses({ ...image, layers: [{ ...layer, Digest: other }] }, 'MALFORMED', /layers\[0\] has "Digest": write "digest"/)
  refuses({ ...image, config: { ...config, mediatype: 'a/b' } }, 'MALFORMED', /config has "mediatype"/)
  refuses({ ...index, manifests: [{ ...child, DIGEST: other }] }, 'MALFORMED', /manifests\[0\] has "DIGEST"/)
})

test('Docker manifest and manifest list', () => {
  const docker = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPE_DOCKER_MANIFEST,
    config: { ...config, mediaType: MEDIA_TYPE_DOCKER_CONFIG },
    layers: [{ ...layer, mediaType: MEDIA_TYPE_DOCKER_LAYER }],
  }
  assert.equal(parseManifest(encode(docker)).mediaType, MEDIA_TYPE_DOCKER_MANIFEST)
  const list = { schemaVersion: 2, mediaType: MEDIA_TYPE_DOCKER_MANIFEST_LIST, manifests: [child] }
  assert.equal(parseManifest(encode(list), MEDIA_TYPE_DOCKER_MANIFEST_LIST).kind, 'index')
})

test('a layer used twice is named once, at its first place', () => {
  const other = { ...layer, digest: digestOf('other') }
  const parsed = parseManifest(encode({ ...image, layers: [layer, other, layer, { ...config }] }))
  assert.deepEqual(
    blobsOf(parsed).map((blob) => blob.digest),
    [config.digest, layer.digest, other.digest],
  )
  assert.equal((parsed as ImageManifest).layers.length, 4)
})

test('foreign layers are recognised and keep their urls', () => {
  const urls = ['https://mcr.example.com/v2/windows/blobs/x']
  for (const mediaType of [
    'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
    'application/vnd.docker.image.rootfs.foreign.diff.tar',
    'application/vnd.oci.image.layer.nondistributable.v1.tar',
    'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
    'application/vnd.oci.image.layer.nondistributable.v1.tar+zstd',
  ]) {
    const [, foreign] = blobsOf(parseManifest(encode({ ...image, layers: [{ ...layer, mediaType, urls }] })))
    assert.ok(foreign !== undefined && isForeignLayer(foreign), mediaType)
    assert.deepEqual(foreign.urls, urls)
  }
  assert.equal(isForeignLayer(parseDescriptor(layer)), false)
})

test('the type without a useful content type: own word first, then shape', () => {
  const { mediaType: _image, ...bareImage } = image
  const { mediaType: _index, ...bareIndex } = index
  for (const contentType of [undefined, '', 'application/json', 'text/plain; charset=utf-8']) {
    assert.equal(parseManifest(encode(bareImage), contentType).mediaType, MEDIA_TYPE_OCI_MANIFEST)
    assert.equal(parseManifest(encode(bareIndex), contentType).mediaType, MEDIA_TYPE_OCI_INDEX)
  }
  assert.equal(parseManifest(encode(bareImage), MEDIA_TYPE_DOCKER_MANIFEST).mediaType, MEDIA_TYPE_DOCKER_MANIFEST)
  assert.equal(detectMediaType(encode(image)), MEDIA_TYPE_OCI_MANIFEST)
  refuses({ schemaVersion: 2 }, 'UNKNOWN_TYPE', /neither/)
  refuses({ schemaVersion: 2, layers: [] }, 'UNKNOWN_TYPE', /neither/)
  refuses({ ...image, mediaType: 'application/x-other' }, 'UNKNOWN_TYPE', /x-other/)
  refuses(bareImage, 'UNKNOWN_TYPE', /text\/html/, 'text/html')
})

test('one document never means two things', () => {
  refuses({ ...image, manifests: [child] }, 'MALFORMED', /"manifests"/)
  refuses({ ...index, layers: [layer] }, 'MALFORMED', /two different images/)
  refuses({ ...index, config }, 'MALFORMED', /two different images/)
  refuses(image, 'MALFORMED', /contradicts/, MEDIA_TYPE_OCI_INDEX)
  refuses(image, 'MALFORMED', /contradicts/, MEDIA_TYPE_DOCKER_MANIFEST)
})

test('schema 1 is refused with advice', () => {
  refuses({ schemaVersion: 1, fsLayers: [] }, 'SCHEMA1', /push the image again/)
  refuses(image, 'SCHEMA1', /schema 1/, MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED)
  refuses({ ...image, mediaType: MEDIA_TYPE_DOCKER_SCHEMA1_SIGNED }, 'SCHEMA1', /schema 1/)
})

test('fields that Go writes as null or empty are absent', () => {
  const parsed = parseManifest(
    encode({
      ...image,
      layers: null,
      annotations: null,
      subject: null,
      artifactType: '',
      config: { ...config, urls: null, annotations: null, platform: null },
    }),
  )
  assert.deepEqual(blobsOf(parsed), [config])
  assert.equal('artifactType' in parsed || 'subject' in parsed || 'annotations' in parsed, false)
})

test('an artifact with the empty config and no layers', () => {
  const empty = { mediaType: MEDIA_TYPE_OCI_EMPTY, digest: digestOf('{}'), size: 2, data: 'e30=' }
  const parsed = parseManifest(encode({ ...image, artifactType: 'a/b', config: empty, layers: [] }))
  assert.equal(parsed.artifactType, 'a/b')
  assert.equal(blobsOf(parsed).length, 1)
})

test('malformed descriptors are refused, and the message says where', () => {
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{ digest: 'sha256:abc' }, /layers\[0\]\.digest/],
    [{ digest: layer.digest.toUpperCase() }, /digest/],
    [{ digest: undefined }, /digest/],
    [{ size: -1 }, /size/],
    [{ size: 1.5 }, /size/],
    [{ size: 2 ** 53 }, /size/],
    [{ size: '5' }, /size/],
    [{ size: null }, /size/],
    [{ mediaType: '' }, /mediaType/],
    [{ mediaType: 'x' }, /mediaType/],
    [{ mediaType: `a/${'b'.repeat(300)}` }, /mediaType/],
    [{ mediaType: 'a/b\r\nX: y' }, /mediaType/],
    [{ urls: 'https://x' }, /urls/],
    [{ urls: ['file:///etc/passwd'] }, /urls/],
    [{ urls: Array.from({ length: 65 }, () => 'https://x/') }, /urls/],
    [{ annotations: [] }, /annotations/],
    [{ annotations: { a: 1 } }, /annotations/],
    [{ platform: 'linux' }, /platform/],
    [{ platform: { os: 'linux' } }, /platform/],
    [{ platform: { os: 'linux', architecture: 'a', variant: 7 } }, /variant/],
    [{ platform: { os: 'linux', architecture: 'a', 'os.features': [1] } }, /os\.features/],
  ]
  for (const [change, message] of wrong) {
    refuses({ ...image, layers: [{ ...layer, ...change }] }, 'MALFORMED', message)
  }
  refuses({ ...image, layers: {} }, 'MALFORMED', /layers/)
  refuses({ ...image, layers: [null] }, 'MALFORMED', /layers\[0\]/)
  refuses({ ...image, config: null }, 'MALFORMED', /config/)
  refuses({ ...image, schemaVersion: '2' }, 'MALFORMED', /schemaVersion/)
  assert.equal(Object.is(parseDescriptor(JSON.parse(JSON.stringify(layer).replace(':5', ':-0'))).size, 0), true)
})

test('limits: bytes, depth, number of entries', () => {
  const spaces = new Uint8Array(MAX_MANIFEST_BYTES + 1).fill(0x20)
  spaces.set(encode(image))
  refuses(spaces, 'TOO_LARGE', /4194304/)
  assert.equal(parseManifest(spaces.subarray(0, MAX_MANIFEST_BYTES)).kind, 'image')
  refuses(`{"schemaVersion":2,"x":${'['.repeat(100_000)}`, 'MALFORMED', /deeper/)
  refuses(encode({ ...image, layers: Array.from({ length: MAX_DESCRIPTORS + 1 }, () => 0) }), 'MALFORMED', /8192/)
  const brackets = { ...image, annotations: { a: '[[[["{'.repeat(100), b: '\\"[' } }
  assert.equal(parseManifest(encode(brackets)).kind, 'image')
})

test('not JSON, not UTF-8, not an object', () => {
  refuses('', 'MALFORMED', /JSON/)
  refuses('{', 'MALFORMED', /JSON/)
  refuses('[]', 'MALFORMED', /object/)
  refuses('null', 'MALFORMED', /object/)
  refuses(`\u{feff}${JSON.stringify(image)}`, 'MALFORMED', /JSON/)
  refuses(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d), 'MALFORMED', /UTF-8/)
})

test('describeManifest gives digest and size of the exact bytes', () => {
  const bytes = encode(image)
  assert.deepEqual(describeManifest(bytes, image.mediaType), {
    mediaType: image.mediaType,
    digest: digestOf(bytes),
    size: bytes.length,
  })
})

const descriptor = fc.record(
  {
    mediaType: fc.constantFrom(MEDIA_TYPE_OCI_LAYER_GZIP, 'text/plain'),
    digest: fc.uint8Array().map((content) => digestOf(content)),
    size: fc.maxSafeNat(),
    annotations: fc.dictionary(fc.string(), fc.string()),
    platform: fc.record({ os: fc.string(), architecture: fc.string() }),
    urls: fc.array(fc.webUrl(), { maxLength: 3 }),
  },
  { requiredKeys: ['mediaType', 'digest', 'size'] },
)

test('what was written by the rules is read back the same', () => {
  fc.assert(
    fc.property(descriptor, fc.array(descriptor), (configuration, layers) => {
      const parsed = parseManifest(encode({ ...image, config: configuration, layers })) as ImageManifest
      // Through JSON, because fast-check also makes objects without a prototype.
      assert.equal(JSON.stringify(parsed.layers.map(sorted)), JSON.stringify(layers.map(sorted)))
      assert.equal(JSON.stringify(sorted(parsed.config)), JSON.stringify(sorted(configuration)))
    }),
  )
})

test('whatever the bytes, the parser answers with a manifest that keeps its promises or with its own error', () => {
  const json = fc.oneof(
    fc.json({ maxDepth: 4 }),
    fc.uint8Array().map((bytes) => Buffer.from(bytes).toString('latin1')),
    fc
      .tuple(fc.constantFrom(image, index), fc.string(), fc.jsonValue())
      .map(([base, key, value]) => JSON.stringify({ ...base, [key]: value })),
    fc
      .tuple(
        fc.constantFrom('schemaVersion', 'mediaType', 'config', 'layers', 'manifests', 'subject', 'annotations'),
        fc.jsonValue(),
      )
      .map(([key, value]) => JSON.stringify({ ...image, [key]: value })),
    fc
      .tuple(
        fc.constantFrom('mediaType', 'digest', 'size', 'urls', 'platform', 'annotations', 'artifactType'),
        fc.jsonValue(),
      )
      .map(([key, value]) => JSON.stringify({ ...image, layers: [{ ...layer, [key]: value }] })),
  )
  fc.assert(
    fc.property(json, (text) => {
      try {
        const parsed = parseManifest(encode(text))
        for (const { digest, size } of [...blobsOf(parsed), ...childrenOf(parsed)]) {
          assert.ok(isDigest(digest) && Number.isSafeInteger(size) && size >= 0)
        }
      } catch (error) {
        assert.ok(error instanceof InvalidManifestError, String(error))
      }
    }),
    { numRuns: 1000 },
  )
})

function sorted(value: object): [string, unknown][] {
  return Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
}
