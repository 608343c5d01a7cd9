// Good inputs that the fuzzed ones are made of.
import type { ControlMessage } from '../../packages/network/src/messages.ts'

export const DIGEST = `sha256:${'ab'.repeat(32)}` as const
const digest = DIGEST
const node = { peerId: '12D3KooWabc', multiaddrs: ['/ip4/10.0.0.1/tcp/7701'], transfer: '10.0.0.1:7702', zone: 'a' }
const voucher = { indices: [0, 5], hashes: Buffer.alloc(64, 3), signer: '12D3KooWabc', signature: Buffer.alloc(64, 4) }
const map = Uint8Array.of(0xff, 0x01)

export const controlMessages: ControlMessage[] = [
  { type: 'hello', version: 1, agent: 'shoal-agent/0.1.0', node, instance: 'aa', sequence: 2 },
  {
    type: 'swarm-join',
    digest,
    sizeBytes: 3_000_000,
    mediaType: 'application/octet-stream',
    chunks: map,
    complete: false,
    vouchers: [voucher],
    reply: true,
    freeSlots: 7,
  },
  { type: 'swarm-refuse', digest, reason: 'full', others: [node] },
  { type: 'have', digest, indices: [1, 2, 3], vouchers: [voucher], complete: false, freeSlots: 1 },
  { type: 'lost', digest, indices: [4] },
  { type: 'claim', digest, indices: [1, 9], active: true },
  { type: 'tag-query', requestId: 1, reference: 'ghcr.io/org/app:1' },
  { type: 'tracker-join', digest, sizeBytes: 9, originHost: 'ghcr.io', chunks: map, complete: false, leaseCredit: 2 },
  { type: 'tracker-holdings', blobs: [{ digest, sizeBytes: 9 }] },
  { type: 'tracker-peers-wanted', digest, exclude: ['12D3KooWabc'] },
  { type: 'tracker-peers', digest, sizeBytes: 9, members: 2, peers: [node, node] },
  { type: 'lease-grant', digest, leaseId: 3, first: 0, count: 8, idleLimitMs: 2000, source: undefined },
  { type: 'lease-grant', digest, leaseId: 4, first: 7, count: 1, idleLimitMs: 2000, source: node },
  { type: 'hash-query', digest, indices: [7] },
  { type: 'lease-done', digest, leaseId: 3, fetched: [0, 1], originBackoffMs: 0, failed: false },
  {
    type: 'tag-answer',
    requestId: 1,
    reference: 'ghcr.io/org/app:1',
    digest,
    mediaType: 'x/y',
    sizeBytes: 5,
    stale: false,
    errorCode: '',
  },
  { type: 'peer-report', digest, peerId: '12D3KooWabc', reason: 'wrong_bytes' },
]

const descriptor = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest, size: 32_654 }
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json'

export const MANIFEST = JSON.stringify({
  schemaVersion: 2,
  mediaType: MANIFEST_TYPE,
  config: { ...descriptor, mediaType: 'application/vnd.oci.image.config.v1+json' },
  layers: [descriptor, { ...descriptor, urls: ['https://example.test/layer'] }],
  annotations: { a: 'b' },
})

export const INDEX = JSON.stringify({
  schemaVersion: 2,
  mediaType: 'application/vnd.oci.image.index.v1+json',
  manifests: [{ ...descriptor, mediaType: MANIFEST_TYPE, platform: { architecture: 'amd64', os: 'linux' } }],
})

export const texts = {
  references: ['alpine', 'ghcr.io/org/app:1.2', `127.0.0.1:5000/a/b@${digest}`, 'docker.io/library/nginx:latest'],
  paths: [
    '/v2/',
    '/v2/org/app/manifests/latest?ns=ghcr.io',
    `/v2/org/app/blobs/${digest}`,
    '/v2/org/app/blobs/uploads/0f8fad5b-d9cb-469f-a165-70867728950e',
    '/v2/org/app/tags/list?n=10&last=a',
    '/v2/_catalog',
  ],
  ranges: ['bytes=0-99', 'bytes=500-', 'bytes=-10', 'bytes=0-0,5-9'],
  challenges: [
    'Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull"',
    'Basic realm="a \\"b\\"", Bearer realm=x',
    'Negotiate abc=, Basic realm=x',
  ],
  links: ['</v2/org/app/tags/list?last=b&n=100>; rel="next"', '<https://registry.test/x?n=1>; title=a; rel=next'],
  chunkLists: [JSON.stringify({ size: 10, chunkSize: 10, hashes: Buffer.alloc(32).toString('base64') })],
  dockerConfigs: [
    JSON.stringify({ auths: { 'ghcr.io': { auth: Buffer.from('u:p').toString('base64') }, 'a.test': {} } }),
    JSON.stringify({ credHelpers: { 'a.test': 'ecr-login' }, credsStore: 'pass' }),
  ],
  endpoints: [
    '10.0.0.1:7710',
    'tracker.test:7710',
    '[2001:db8::1]:7710',
    '/ip4/10.0.0.1/tcp/7701',
    '/dns4/a.test/tcp/1',
  ],
  configs: [
    'mirrorPort: 7700\ntrackers:\n  - 10.0.0.1:7710\n',
    '{"zone": "a", "registries": {"ghcr.io": {"username": "u"}}}',
    'a: &x [1, 2]\nb: *x\nc: |\n  text\n',
  ],
}
