import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it, type TestContext } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { digestOf, parseManifest } from '@shoal/oci'
import { makeImage, type DemoImage } from './image.ts'
import { tarHeader } from './tar.ts'

async function image(t: TestContext, sizeBytes: number): Promise<DemoImage> {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-image-'))
  t.after(() => rm(directory, { recursive: true }))
  return makeImage(directory, sizeBytes)
}

const contentOf = async (content: Uint8Array | string) => (typeof content === 'string' ? readFile(content) : content)

describe('makeImage', () => {
  it('makes an image whose digests are right, down to the unpacked layers', async (t) => {
    const made = await image(t, 1_000_003)
    const manifest = parseManifest(made.manifest)
    assert.ok(manifest.kind === 'image')
    assert.equal(digestOf(made.manifest), made.manifestDigest)
    const [config, ...layers] = await Promise.all(made.blobs.map(({ content }) => contentOf(content)))
    assert.ok(config)
    assert.deepEqual(
      made.blobs.map(({ descriptor }) => descriptor.digest),
      [config, ...layers].map((content) => digestOf(content)),
    )
    assert.equal(
      made.sizeBytes,
      [config, ...layers].reduce((sum, { length }) => sum + length, 0),
    )
    const { rootfs } = JSON.parse(Buffer.from(config).toString()) as { rootfs: { diff_ids: string[] } }
    assert.deepEqual(
      rootfs.diff_ids,
      layers.map((layer) => `sha256:${createHash('sha256').update(gunzipSync(layer)).digest('hex')}`),
    )
  })

  it('makes layers that tar reads', async (t) => {
    const made = await image(t, 1_000_003)
    const listings = made.blobs
      .slice(1)
      .map(({ content }) =>
        execFileSync('tar', ['-tvzf', content as string], { encoding: 'utf8' }).replaceAll(/ +/g, ' '),
      )
    assert.match(listings[0] ?? '', /^-rw-r--r-- (0|root)\/(0|root) 22 1970-01-01 00:00 greeting$/m)
    assert.match(listings[1] ?? '', / 1000003 .* data$/m)
    if (made.isRunnable) assert.match(listings[3] ?? '', /^-rwxr-xr-x .* bin\/busybox\n.* bin\/sh -> busybox$/m)
  })

  it('makes the same image again', async (t) => {
    assert.equal((await image(t, 5_000)).manifestDigest, (await image(t, 5_000)).manifestDigest)
  })
})

describe('tarHeader', () => {
  it('writes sizes beyond 8 GiB as GNU tar reads them', () => {
    const sizeBytes = 20 * 2 ** 30
    const header = tarHeader({ kind: 'file', name: 'big', sizeBytes, mode: 0o644 })
    assert.equal(header[124], 0x80)
    assert.equal(header.readBigUInt64BE(128), BigInt(sizeBytes))
    // tar complains of the missing content after it has listed the entry.
    const { stdout: listing } = spawnSync('tar', ['-tvf', '-'], { input: header, encoding: 'utf8' })
    assert.match(listing, new RegExp(` ${sizeBytes} `))
  })

  it('refuses a name that does not fit', () =>
    assert.throws(() => tarHeader({ kind: 'directory', name: 'x'.repeat(101) }), RangeError))
})
