// A tag that is pushed while others pull it: whoever pulls gets one of the images that were pushed, whole.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { digestOf } from '@shoal/oci'
import { makeImage, MANIFEST_TYPE, startOrigin, temporaryFolder, type Client, type TestImage } from './testing.ts'

const PULLS = 300
const PULLERS = 6
const IMAGES = 8

/** Pulls as runtimes do, and gives back the digest of the image. */
async function pull(client: Client, images: ReadonlyMap<string, TestImage>): Promise<string> {
  const byTag = await client.get('/v2/app/manifests/latest', { accept: MANIFEST_TYPE })
  assert.equal(byTag.status, 200)
  const digest = digestOf(byTag.body)
  assert.equal(byTag.headers.get('docker-content-digest'), digest)
  const image = images.get(digest)
  assert.ok(image, `${digest} was never pushed`)
  const byDigest = await client.get(`/v2/app/manifests/${digest}`, { accept: MANIFEST_TYPE })
  assert.equal(byDigest.body.toString(), image.text)
  for (const blob of image.blobs) {
    const answer = await client.get(`/v2/app/blobs/${digestOf(blob)}`)
    assert.equal(answer.status, 200)
    assert.ok(answer.body.equals(blob), 'another blob than that of the image')
  }
  return digest
}

test(`${PULLS} pulls of a tag that moves all the while see whole images only`, async (t) => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const { client } = origin
  const pushed = Array.from({ length: IMAGES }, (_, at) => makeImage([20_000 + at, 300]))
  const images = new Map(pushed.map((image) => [image.digest as string, image]))
  const [first] = pushed
  assert.ok(first)
  assert.equal((await client.pushImage('app', 'latest', first)).status, 201)

  let left = PULLS
  let pushes = 0
  let failed = false
  // Where the disk is slow, the pulls go on until each image has had its turn.
  const goesOn = (): boolean => !failed && (left > 0 || pushes < IMAGES)
  const seen = new Set<string>()
  const pulling = Array.from({ length: PULLERS }, async () => {
    for (; goesOn(); left--) seen.add(await pull(client, images))
  })
  const pushing = (async () => {
    for (let at = 1; goesOn(); at++) {
      const image = pushed[at % IMAGES]
      assert.ok(image)
      // As clients do: what is there already is not sent again.
      const isNew = at < IMAGES
      const push = isNew ? client.pushImage('app', 'latest', image) : client.putManifest('app', 'latest', image.text)
      assert.equal((await push).status, 201)
      pushes++
    }
  })()
  try {
    await Promise.all([...pulling, pushing])
  } catch (error) {
    failed = true
    throw error
  } finally {
    await Promise.allSettled([...pulling, pushing])
  }
  t.diagnostic(`${pushes} pushes, ${seen.size} of ${IMAGES} images seen`)
  assert.ok(seen.size > 1, 'the tag never moved while it was pulled')
})
