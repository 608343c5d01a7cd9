import assert from 'node:assert/strict'
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite, test, type TestContext } from 'node:test'
import { generateKeyPair, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import fc from 'fast-check'
import { createIdentity, loadOrCreateIdentity, signBytes, verifySignature } from './identity.ts'

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'shoal-identity-'))
  t.after(() => rm(path, { recursive: true, force: true }))
  return path
}

suite('identity', () => {
  test('is made once, kept private, and the same ever after', async (t) => {
    const path = join(await folder(t), 'deep', 'identity.key')
    const [first, atOnce] = await Promise.all([loadOrCreateIdentity(path), loadOrCreateIdentity(path)])
    assert.equal(first.peerId, atOnce.peerId)
    assert.equal((await loadOrCreateIdentity(path)).peerId, first.peerId)
    assert.equal((await stat(path)).mode & 0o777, 0o600)
    assert.deepEqual(await readdir(join(path, '..')), ['identity.key'], 'nothing is left beside it')
    assert.match(first.peerId, /^12D3KooW/)
  })

  test('a file that others may read is refused, with what to do', async (t) => {
    const path = join(await folder(t), 'identity.key')
    await loadOrCreateIdentity(path)
    await chmod(path, 0o640)
    await assert.rejects(loadOrCreateIdentity(path), { name: 'IdentityError', message: /mode 640.*chmod 600/ })
  })

  // Regression: after a crash that tore its identity file a node did not start again without a person's help (found by
  // the chaos faults agent-torn-identity and tracker-torn-identity).
  test('a torn file is moved aside and the node gets a new identity', async (t) => {
    const path = join(await folder(t), 'identity.key')
    const { peerId } = await loadOrCreateIdentity(path)
    const whole = await readFile(path)
    const flipped = Uint8Array.from(whole)
    flipped[20]! ^= 1
    for (const bytes of [Buffer.alloc(0), whole.subarray(0, 20), Buffer.from('hello'), flipped]) {
      await writeFile(path, bytes)
      const anew = await loadOrCreateIdentity(path)
      assert.notEqual(anew.peerId, peerId)
      assert.equal((await loadOrCreateIdentity(path)).peerId, anew.peerId)
      assert.deepEqual(await readFile(`${path}.damaged`), Buffer.from(bytes))
    }
  })

  test('a whole key of another kind is refused, never replaced', async (t) => {
    const path = join(await folder(t), 'identity.key')
    const other = privateKeyToProtobuf(await generateKeyPair('secp256k1'))
    await writeFile(path, other, { mode: 0o600 })
    await assert.rejects(loadOrCreateIdentity(path), { name: 'IdentityError', message: /secp256k1.*delete it/ })
    assert.deepEqual(await readFile(path), Buffer.from(other))
  })

  test('signatures are checked knowing only the peer id', async () => {
    const [a, b] = await Promise.all([createIdentity(), createIdentity()])
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(), fc.integer({ min: 1, max: 255 }), (bytes, at, flip) => {
        const signature = Uint8Array.from(signBytes(a, bytes))
        assert.equal(verifySignature(a.peerId, bytes, signature), true)
        assert.equal(verifySignature(b.peerId, bytes, signature), false)
        assert.equal(verifySignature(a.peerId, Uint8Array.of(...bytes, 0), signature), false)
        const index = at % signature.length
        signature[index] = (signature[index] as number) ^ flip
        assert.equal(verifySignature(a.peerId, bytes, signature), false)
      }),
      { numRuns: 50 },
    )
  })

  test('malformed peer ids and signatures are just not right', async () => {
    const identity = await createIdentity()
    const bytes = Buffer.from('x')
    const signature = signBytes(identity, bytes)
    const other = peerIdFromPrivateKey(await generateKeyPair('secp256k1')).toString()
    // The same key in another spelling would be another name for one peer.
    const otherSpelling = peerIdFromString(identity.peerId).toCID().toString()
    for (const peerId of ['', 'nonsense', 'x'.repeat(100_000), other, otherSpelling, `${identity.peerId}x`]) {
      assert.equal(verifySignature(peerId, bytes, signature), false, peerId.slice(0, 80))
    }
    for (const wrong of [new Uint8Array(), signature.subarray(1), new Uint8Array(64), new Uint8Array(1000)]) {
      assert.equal(verifySignature(identity.peerId, bytes, wrong), false)
    }
  })
})
