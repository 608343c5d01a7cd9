// The pull half of the OCI distribution specification 1.1, asked of every endpoint that offers it. Section numbers are
// those of the specification.
import assert from 'node:assert/strict'
import { after, before, describe, test, type TestContext } from 'node:test'
import type { Answer } from '../support/http.ts'
import { KiB, makeIndex, MiB, OCI, rawImage, rawLayer, sha256, type Image } from '../support/images.ts'
import { pushImage, pushIndex } from '../support/push.ts'
import { fetchAll } from '../support/http.ts'
import { missingRequirements, requires } from '../support/requirements.ts'
import { until } from '../support/until.ts'
import { ENDPOINT_KINDS, needsOf, startEndpoint, type Endpoint } from './endpoints.ts'

const REPOSITORY = 'conformance/some-org/app'

function assertOciError(answer: Answer, status: number, ...codes: string[]): void {
  assert.equal(answer.status, status, answer.body.toString())
  assert.match(answer.headers['content-type'] ?? '', /^application\/json/)
  const { errors } = JSON.parse(answer.body.toString()) as { errors: { code: string; message?: string }[] }
  assert.ok(Array.isArray(errors) && errors.length > 0)
  assert.ok(codes.includes(errors[0]?.code ?? ''), `code ${errors[0]?.code} is none of ${codes.join(', ')}`)
}

for (const kind of ENDPOINT_KINDS) {
  const able = missingRequirements(needsOf(kind)).length === 0
  describe(`pull conformance: ${kind}`, () => {
    let endpoint: Endpoint
    const image = rawImage('conformance', [3 * MiB, 5 * KiB])
    const second = rawImage('conformance-2', [64 * KiB])
    const index = makeIndex([image, { ...second, platform: { os: 'linux', architecture: 's390x' } }])
    const layer = image.blobs[1]
    const layerBytes = Buffer.concat([...(layer?.bytes() ?? [])])
    const digest = layer?.digest ?? ''
    const referrer: Image = (() => {
      const blob = rawLayer('signature', 100, 'application/vnd.example.signature')
      const manifest = Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType: OCI.manifest,
          artifactType: 'application/vnd.example.signature.v1',
          config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 },
          layers: [{ mediaType: blob.mediaType, digest: blob.digest, size: blob.sizeBytes }],
          subject: { mediaType: OCI.manifest, digest: image.digest, size: image.manifest.length },
          annotations: { 'org.example.key': 'value' },
        }),
      )
      const empty = { digest: sha256('{}'), sizeBytes: 2, mediaType: OCI.config, bytes: () => [Buffer.from('{}')] }
      const blobs = [empty, blob]
      return { ...image, manifest, digest: sha256(manifest), blobs }
    })()

    before(async () => {
      if (!able) return
      endpoint = await startEndpoint(kind)
      const { pushBase } = endpoint
      await pushIndex(pushBase, REPOSITORY, 'multi', index)
      for (const tag of ['v1', 'v2', 'v10', 'latest']) await pushImage(pushBase, REPOSITORY, tag, image)
      if (endpoint.referrers) await pushImage(pushBase, REPOSITORY, referrer.digest, referrer)
    })
    after(() => endpoint?.close())

    const check = (name: string, body: (t: TestContext) => Promise<void>): void => {
      test(name, async (t) => {
        if (requires(t, ...needsOf(kind))) await body(t)
      })
    }
    const manifestPath = (reference: string): string => `/v2/${REPOSITORY}/manifests/${reference}`
    const blobPath = (reference: string): string => `/v2/${REPOSITORY}/blobs/${reference}`
    const accept = `${Object.values(OCI).join(', ')}, */*;q=0.5`

    check('the version check answers 200', async () => {
      assert.equal((await endpoint.ask('/v2/')).status, 200)
    })

    check('a manifest comes byte for byte, by tag and by digest, with its headers', async () => {
      for (const reference of ['v1', image.digest]) {
        for (const method of ['GET', 'HEAD']) {
          const answer = await endpoint.ask(manifestPath(reference), { method, headers: { accept } })
          assert.equal(answer.status, 200)
          assert.equal(answer.headers['content-type'], OCI.manifest)
          assert.equal(answer.headers['docker-content-digest'], image.digest)
          assert.equal(answer.headers['content-length'], String(image.manifest.length))
          assert.deepEqual(answer.body, method === 'GET' ? image.manifest : Buffer.alloc(0))
        }
      }
    })

    check('an index comes as it is, and its children by digest', async () => {
      const answer = await endpoint.ask(manifestPath('multi'), { headers: { accept } })
      assert.equal(answer.headers['content-type'], OCI.index)
      assert.equal(answer.headers['docker-content-digest'], index.digest)
      assert.deepEqual(answer.body, index.manifest)
      const child = await endpoint.ask(manifestPath(second.digest), { headers: { accept } })
      assert.deepEqual(child.body, second.manifest)
    })

    check('a blob comes whole, and HEAD tells its size', async () => {
      const whole = await endpoint.ask(blobPath(digest))
      assert.equal(whole.status, 200)
      assert.equal(whole.headers['content-length'], String(layerBytes.length))
      assert.equal(sha256(whole.body), digest)
      const head = await endpoint.ask(blobPath(digest), { method: 'HEAD' })
      assert.equal(head.status, 200)
      assert.equal(head.headers['content-length'], String(layerBytes.length))
      assert.equal(head.headers['docker-content-digest'], digest)
      assert.equal(head.body.length, 0)
    })

    check('ranges of a blob: from, from to, the end, and none', async () => {
      const size = layerBytes.length
      for (const [range, first, last] of [
        ['bytes=1000000-', 1_000_000, size - 1],
        ['bytes=0-', 0, size - 1],
        ['bytes=5-5', 5, 5],
        [`bytes=262143-262145`, 262_143, 262_145],
        [`bytes=${size - 3}-${size + 1000}`, size - 3, size - 1],
        ['bytes=-7', size - 7, size - 1],
      ] as const) {
        const answer = await endpoint.ask(blobPath(digest), { headers: { range } })
        assert.equal(answer.status, 206, range)
        assert.equal(answer.headers['content-range'], `bytes ${first}-${last}/${size}`, range)
        assert.deepEqual(answer.body, layerBytes.subarray(first, last + 1), range)
      }
      // Debian's registry announces a body with its 416 and sends another.
      if (kind === 'docker-registry') return
      const beyond = await endpoint.ask(blobPath(digest), { headers: { range: `bytes=${size}-` } })
      assert.equal(beyond.status, 416)
    })

    check('what is not there is told in the words of the specification', async () => {
      const missing = sha256('nobody has this')
      assertOciError(await endpoint.ask(manifestPath('no-such-tag')), 404, 'MANIFEST_UNKNOWN', 'NAME_UNKNOWN')
      assertOciError(await endpoint.ask(manifestPath(missing)), 404, 'MANIFEST_UNKNOWN', 'NAME_UNKNOWN')
      assertOciError(await endpoint.ask(blobPath(missing)), 404, 'BLOB_UNKNOWN', 'NAME_UNKNOWN')
      const repository = await endpoint.ask(`/v2/conformance/no-such-repository/manifests/v1`)
      assertOciError(repository, 404, 'MANIFEST_UNKNOWN', 'NAME_UNKNOWN')
      assert.equal((await endpoint.ask(blobPath(missing), { method: 'HEAD' })).status, 404)
      assert.equal((await endpoint.ask(manifestPath('no-such-tag'), { method: 'HEAD' })).status, 404)
    })

    check('what is no reference is refused', async () => {
      for (const path of [
        blobPath('sha256:tooshort'),
        blobPath('latest'),
        manifestPath('sha256:XYZ'),
        manifestPath('no%20tag'),
        '/v2/UPPER/case/manifests/v1',
        `/v2/${REPOSITORY}/manifests/${'a'.repeat(129)}`,
      ]) {
        const { status } = await endpoint.ask(path)
        // Debian's registry answers some of them with 500.
        const wrong = kind === 'docker-registry' ? [400, 404, 500] : [400, 404]
        assert.ok(wrong.includes(status), `${path}: ${status}`)
      }
    })

    check('tags are listed in order, in pages', async () => {
      const list = async (query: string): Promise<{ tags: string[]; link: string }> => {
        const answer = await endpoint.ask(`/v2/${REPOSITORY}/tags/list${query}`)
        assert.equal(answer.status, 200)
        const { tags } = JSON.parse(answer.body.toString()) as { name: string; tags: string[] }
        return { tags, link: String(answer.headers['link'] ?? '') }
      }
      const all = (await list('')).tags
      assert.deepEqual(all.toSorted(), ['latest', 'multi', 'v1', 'v10', 'v2'])
      // Debian's registry is of a time before order and pages.
      if (kind === 'docker-registry') return
      assert.deepEqual(all, all.toSorted())
      const first = await list('?n=2')
      assert.deepEqual(first.tags, ['latest', 'multi'])
      assert.match(first.link, /rel="?next"?/)
      assert.deepEqual((await list('?n=2&last=multi')).tags, ['v1', 'v10'])
      assert.deepEqual((await list('?n=10&last=v10')).tags, ['v2'])
      assert.deepEqual((await list('?n=0')).tags, [])
    })

    check('If-None-Match of what the client has is answered 304', async () => {
      for (const path of [manifestPath('v1'), manifestPath(image.digest), blobPath(digest)]) {
        const etag = (await endpoint.ask(path, { headers: { accept } })).headers['etag']
        assert.ok(etag, `${path} has no ETag`)
        const again = await endpoint.ask(path, { headers: { accept, 'if-none-match': etag } })
        assert.equal(again.status, 304, path)
        assert.equal(again.body.length, 0)
      }
    })

    check('referrers of a manifest are listed as an index', async (t) => {
      if (!endpoint.referrers) {
        t.diagnostic('this registry is older than the Referrers API')
        return
      }
      const answer = await endpoint.ask(`/v2/${REPOSITORY}/referrers/${image.digest}`)
      assert.equal(answer.status, 200)
      assert.equal(answer.headers['content-type'], OCI.index)
      const listed = JSON.parse(answer.body.toString()) as {
        schemaVersion: number
        manifests: { digest: string; artifactType: string; annotations: Record<string, string> }[]
      }
      assert.equal(listed.schemaVersion, 2)
      assert.deepEqual(
        listed.manifests.map((entry) => entry.digest),
        [referrer.digest],
      )
      assert.equal(listed.manifests[0]?.artifactType, 'application/vnd.example.signature.v1')
      assert.deepEqual(listed.manifests[0]?.annotations, { 'org.example.key': 'value' })
      const none = await endpoint.ask(`/v2/${REPOSITORY}/referrers/${second.digest}`)
      assert.equal(none.status, 200)
      assert.deepEqual((JSON.parse(none.body.toString()) as { manifests: unknown[] }).manifests, [])
      const filtered = await endpoint.ask(`/v2/${REPOSITORY}/referrers/${image.digest}?artifactType=other/type`)
      assert.deepEqual((JSON.parse(filtered.body.toString()) as { manifests: unknown[] }).manifests, [])
    })

    if (kind.startsWith('shoal agent')) {
      check('a mirror that may not push says so', async () => {
        const post = await endpoint.ask(`/v2/${REPOSITORY}/blobs/uploads/`, { method: 'POST' })
        assertOciError(post, 405, 'UNSUPPORTED', 'DENIED')
        const put = await endpoint.ask(manifestPath('v9'), { method: 'PUT', body: [image.manifest] })
        assertOciError(put, 405, 'UNSUPPORTED', 'DENIED')
        const remove = await endpoint.ask(manifestPath('v1'), { method: 'DELETE' })
        assertOciError(remove, 405, 'UNSUPPORTED', 'DENIED')
      })

      check('content says where it came from', async () => {
        const [first] = rawImage('sources', [256 * KiB]).blobs.slice(1)
        assert.ok(first)
        const sources = rawImage('sources', [256 * KiB])
        await pushImage(endpoint.pushBase, REPOSITORY, 'sources', sources)
        await endpoint.ask(manifestPath(sources.digest))
        const cold = await endpoint.ask(blobPath(first.digest))
        assert.match(String(cold.headers['x-shoal-source']), /^(origin|swarm|store)$/)
        // The download that served the first may end a moment after its last byte.
        const look = async () => {
          const answer = await endpoint.ask(blobPath(first.digest))
          return answer.headers['x-shoal-source'] === 'store' && answer
        }
        const warm = await until(look, { what: 'answer out of the store', deadlineMs: 10_000 })
        assert.equal(sha256(warm.body), first.digest)
      })

      check('a tag that moves at the origin moves here', async () => {
        await pushImage(endpoint.pushBase, REPOSITORY, 'moving', image)
        const before = await endpoint.ask(manifestPath('moving'), { method: 'HEAD' })
        assert.equal(before.headers['docker-content-digest'], image.digest)
        await pushImage(endpoint.pushBase, REPOSITORY, 'moving', second)
        const now = await endpoint.ask(manifestPath('moving'), { method: 'HEAD' })
        assert.equal(now.headers['docker-content-digest'], second.digest)
        const straight = await fetchAll(`${endpoint.pushBase}${manifestPath('moving')}`, { method: 'HEAD' })
        assert.equal(straight.headers['docker-content-digest'], second.digest)
      })
    }
  })
}
