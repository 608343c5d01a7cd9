// `shoal preheat` against an API that plays a tracker.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runCommand } from '../program.ts'
import { listening } from '../testing.ts'

const DONE = {
  id: 'p1',
  state: 'done',
  counts: { nodes: 2, waiting: 0, running: 0, done: 2, failed: 0 },
  totalBytes: 4096,
  receivedBytes: 4096,
  fromPeersBytes: 3072,
  fromOriginBytes: 1024,
  nodes: [],
}

test('says what has become of the image on how many nodes: brought, or let go', async (t) => {
  const tracker = await listening(t, (_request, response) => response.end(JSON.stringify(DONE)))
  const preheat = async (...flags: string[]): Promise<string> => {
    let out = ''
    const args = ['preheat', 'alpine:3', '--tracker', tracker, ...flags]
    assert.equal(await runCommand(args, { out: (text) => (out += text), err: () => undefined }), 0)
    return out
  }
  const name = 'docker.io/library/alpine:3'
  assert.equal(await preheat(), `${name} is on 2 of 2 nodes: 3.0 KiB came from peers, 1.0 KiB from the origin\n`)
  assert.equal(await preheat('--unpin'), `${name} may be evicted on 2 of 2 nodes\n`)
})
