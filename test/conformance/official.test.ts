// The conformance suite of the OCI distribution specification itself (module distribution-spec/conformance), with every
// part of it switched on. What it saw is kept under .reports/conformance/.
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test, type TestContext } from 'node:test'
import { Daemon } from '../support/daemon.ts'
import { KiB, makeIndex, OCI, rawImage, rawLayer, sha256, type Image } from '../support/images.ts'
import { pushImage, pushIndex } from '../support/push.ts'
import { findProgram, requires } from '../support/requirements.ts'
import { within } from '../support/until.ts'
import { startEndpoint, type Endpoint, type EndpointKind } from './endpoints.ts'

const SUITE = 'conformance'
const REPORTS = resolve(import.meta.dirname, '../../.reports/conformance')
const SUITE_LIMIT_MS = 240_000

/** Parts that are off by default, because not every registry has them. */
const WHOLE: NodeJS.ProcessEnv = {
  OCI_VERSION: '1.1',
  OCI_API_BLOBS_DIGEST_HEADER: 'true',
  OCI_API_BLOBS_UPLOAD_CANCEL: 'true',
  OCI_API_MANIFESTS_DIGEST_HEADER: 'true',
  OCI_API_MANIFESTS_TAG_PARAM: 'true',
}

interface Outcome {
  counts: Record<string, number>
  report: string
}

async function runSuite(endpoint: Endpoint, name: string, settings: NodeJS.ProcessEnv): Promise<Outcome> {
  const folder = join(REPORTS, name)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const suite = new Daemon({
    name: SUITE,
    command: [findProgram(SUITE) ?? SUITE],
    logFile: join(folder, 'output.txt'),
    cwd: folder,
    env: {
      PATH: process.env['PATH'],
      HOME: folder,
      OCI_RESULTS_DIR: folder,
      OCI_REGISTRY: new URL(endpoint.base).host,
      OCI_TLS: 'disabled',
      ...settings,
    },
  })
  try {
    await within(suite.ended, SUITE_LIMIT_MS, 'end of the suite')
  } finally {
    await suite.stop('SIGKILL')
  }
  const report = suite.log()
  const counts = [...report.matchAll(/^ {2}(Disabled|Skip|Pass|FAIL|Error)\.+: +(\d+)$/gm)]
  return { counts: Object.fromEntries(counts.map(([, word, count]) => [word, Number(count)])), report }
}

function assertAllPassed({ counts, report }: Outcome, least: number): void {
  const { Pass: passed = 0, ...others } = counts
  assert.ok(passed >= least, `only ${passed} passed:\n${report}`)
  for (const [word, count] of Object.entries(others)) {
    assert.equal(count, 0, `${word}: ${count}\n${/^Test results[^]*/m.exec(report)?.[0] ?? report}`)
  }
}

async function withEndpoint(
  t: TestContext,
  kind: EndpointKind,
  work: (endpoint: Endpoint) => Promise<void>,
): Promise<void> {
  if (!requires(t, SUITE)) return
  const endpoint = await startEndpoint(kind)
  try {
    await work(endpoint)
  } finally {
    await endpoint.close()
  }
}

/** An image that names `subject`, as a signature does. */
function signatureOf(subject: Image): Image {
  const blob = rawLayer('signature', 100, 'application/vnd.example.signature')
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI.manifest,
      artifactType: 'application/vnd.example.signature.v1',
      config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 },
      layers: [{ mediaType: blob.mediaType, digest: blob.digest, size: blob.sizeBytes }],
      subject: { mediaType: OCI.manifest, digest: subject.digest, size: subject.manifest.length },
    }),
  )
  const empty = { digest: sha256('{}'), sizeBytes: 2, mediaType: OCI.config, bytes: () => [Buffer.from('{}')] }
  return { ...subject, manifest, digest: sha256(manifest), blobs: [empty, blob] }
}

test('shoal registry: pull, push, content discovery and content management, nothing left out', async (t) => {
  await withEndpoint(t, 'shoal registry', async (endpoint) => {
    const outcome = await runSuite(endpoint, 'registry', WHOLE)
    assertAllPassed(outcome, 900)
    const results = readFileSync(join(REPORTS, 'registry', 'results.yaml'), 'utf8')
    const parts = ['Blob get range', 'Manifest get by tag', 'Blob chunked', 'Blob streaming', 'Blob mount', 'Referrers']
    for (const part of [...parts, 'Tag listing', 'Blob delete', 'Manifest delete', 'Tag delete']) {
      assert.match(results, new RegExp(`^ {2}${part}: Pass$`, 'm'))
    }
  })
})

test('shoal agent in front of it: pull and content discovery of what lies at the origin', async (t) => {
  await withEndpoint(t, 'shoal agent, by path', async (endpoint) => {
    const repository = 'conformance/official'
    const image = rawImage('official', [600 * KiB, 5 * KiB])
    const other = rawImage('official-2', [64 * KiB])
    const index = makeIndex([image, { ...other, platform: { os: 'linux', architecture: 's390x' } }])
    const signature = signatureOf(image)
    await pushIndex(endpoint.pushBase, repository, 'multi', index)
    await pushImage(endpoint.pushBase, repository, 'v1', image)
    await pushImage(endpoint.pushBase, repository, signature.digest, signature)
    const outcome = await runSuite(endpoint, 'agent', {
      ...WHOLE,
      OCI_REPO1: `${endpoint.namePrefix}${repository}`,
      OCI_REPO2: `${endpoint.namePrefix}${repository}-2`,
      ...readOnlyApis(),
      OCI_RO_DATA_TAGS: 'v1 multi',
      OCI_RO_DATA_MANIFESTS: [image, other, index, signature].map(({ digest }) => digest).join(' '),
      OCI_RO_DATA_BLOBS: [...image.blobs, ...other.blobs].map(({ digest }) => digest).join(' '),
      OCI_RO_DATA_REFERRERS: image.digest,
    })
    const { Disabled: disabled = 0, ...ran } = outcome.counts
    t.diagnostic(`${ran['Pass']} passed; ${disabled} of push and delete are not for a mirror`)
    assertAllPassed({ ...outcome, counts: ran }, 20)
    for (const part of ['tag-list', 'head', 'pull', 'referrers']) {
      assert.match(outcome.report, new RegExp(`read-only/${part}: Pass$`, 'm'))
    }
  })
})

/**
 * A mirror takes no pushes: the suite looks at what is given to it. Whether there is a digest header it only sees where
 * it knows the manifest's bytes, which it does not here; test/conformance/pull.test.ts looks at the header.
 */
function readOnlyApis(): NodeJS.ProcessEnv {
  const off = ['PUSH', 'BLOBS_DELETE', 'MANIFESTS_DELETE', 'TAGS_DELETE', 'BLOBS_UPLOAD_CANCEL', 'MANIFESTS_TAG_PARAM']
  const unseen = ['MANIFESTS_DIGEST_HEADER']
  const atomic = ['BLOBS_ATOMIC', 'MANIFESTS_ATOMIC', 'TAGS_ATOMIC', 'BLOBS_MOUNT_ANONYMOUS']
  return Object.fromEntries([...off, ...atomic, ...unseen].map((name) => [`OCI_API_${name}`, 'false']))
}
