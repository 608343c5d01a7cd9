// Kills the registry at random moments of random pushes, and looks at what is visible afterwards.
import { test } from 'node:test'
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { digestOf, isDigest } from '@shoal/oci'
import { Client, makeImage, temporaryFolder, type TestImage } from './testing.ts'

/** The system test runs more of them; enough here to hit every phase of a push now and then. */
const ROUNDS = Number(process.env['SHOAL_TEST_KILL_ROUNDS'] ?? 4)
const TAGS = ['latest', '1', '2']

async function startChild(folder: string): Promise<{ child: ChildProcess; client: Client }> {
  const script = new URL('./crash-child.ts', import.meta.url).pathname
  const child = spawn(process.execPath, [script, folder], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  return { child, client: new Client(line.toString().trim()) }
}

test(`kill -9 in the middle of pushes leaves whole images only (${ROUNDS} rounds)`, async () => {
  await using folder = await temporaryFolder()
  const pushed = new Map<string, TestImage>()
  /** Images that a tag was acknowledged to point to last, and those whose push was cut off since. */
  const acknowledged = new Map<string, string>()
  const possible = new Map<string, Set<string>>(TAGS.map((tag) => [tag, new Set<string>()]))
  let cutOff = 0

  for (let round = 0; round < ROUNDS; round++) {
    const { child, client } = await startChild(folder.path)
    const died = once(child, 'exit')
    try {
      const pushes = TAGS.map(async (tag) => {
        for (;;) {
          const image = makeImage(Array.from({ length: randomInt(1, 4) }, () => randomInt(1, 300_000)))
          pushed.set(image.digest, image)
          possible.get(tag)?.add(image.digest)
          const answer = await client.pushImage('app', tag, image)
          assert.equal(answer.status, 201)
          acknowledged.set(tag, image.digest)
          possible.set(tag, new Set([image.digest]))
        }
      })
      setTimeout(() => child.kill('SIGKILL'), randomInt(10, 250))
      for (const result of await Promise.allSettled(pushes)) {
        assert.equal(result.status, 'rejected')
        // What ends a push is the death of the registry, not a wrong answer.
        assert.ok(!(result.reason instanceof assert.AssertionError), String(result.reason))
        cutOff++
      }
    } finally {
      child.kill('SIGKILL')
      await died
    }

    const after = await startChild(folder.path)
    try {
      await checkVisible(after.client, pushed, possible, acknowledged)
    } finally {
      after.child.kill('SIGKILL')
      await once(after.child, 'exit')
    }
  }
  assert.equal(cutOff, ROUNDS * TAGS.length)
})

async function checkVisible(
  client: Client,
  pushed: Map<string, TestImage>,
  possible: Map<string, Set<string>>,
  acknowledged: Map<string, string>,
): Promise<void> {
  const listed = await client.get('/v2/app/tags/list')
  const tags = listed.status === 404 ? [] : (listed.json['tags'] as string[])
  for (const tag of acknowledged.keys()) assert.ok(tags.includes(tag), `the tag ${tag} was acknowledged and is gone`)
  for (const tag of tags) {
    const answer = await client.get(`/v2/app/manifests/${tag}`)
    assert.equal(answer.status, 200)
    const digest = digestOf(answer.body)
    assert.equal(answer.headers.get('docker-content-digest'), digest)
    assert.ok(possible.get(tag)?.has(digest), `the tag ${tag} shows an image that it never got`)
    // From here on it may show this one, or one that is pushed later.
    possible.set(tag, new Set([digest]))
    const image = pushed.get(digest)
    assert.ok(image)
    for (const blob of image.blobs) {
      const blobDigest = digestOf(blob)
      assert.ok(isDigest(blobDigest))
      const body = await client.get(`/v2/app/blobs/${blobDigest}`)
      assert.ok(body.body.equals(blob))
      const list = await client.get(`/v2/app/_shoal/chunks/${blobDigest}`)
      assert.equal(list.json['size'], blob.length)
    }
  }
}
