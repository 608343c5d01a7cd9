import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { digestOf, type Digest } from '@shoal/oci'
import {
  dockerSaveFiles,
  image,
  layoutFiles,
  makeImage,
  makeIndex,
  startRegistry,
  tarOf,
  temporaryFolder,
  writeFolder,
  type Files,
} from './testing.ts'

test('an OCI layout goes up as it is, from a tar, a compressed tar or a folder', async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const index = makeIndex()
  const files = layoutFiles([index])
  const tar = await tarOf(files)
  await writeFile(join(folder, 'image.tar'), tar)
  await writeFile(join(folder, 'image.tar.gz'), gzipSync(tar))
  await writeFile(join(folder, 'image.tar.zst'), zstdCompressSync(tar))
  await writeFolder(join(folder, 'layout'), files)
  for (const [at, name] of ['image.tar', 'image.tar.gz', 'image.tar.zst', 'layout'].entries()) {
    const loaded = await image('load', join(folder, name), `${registry.host}/team/app${at}:1.0`)
    assert.equal(loaded.code, 0, loaded.err)
    assert.match(loaded.out, new RegExp(`/team/app${at}:1.0 ${index.root.digest}\n6 blobs .* sent.*3 manifests put`))
    const tag = await registry.get(`/v2/team/app${at}/manifests/1.0`)
    assert.equal(digestOf(tag.body), index.root.digest)
    for (const [digest, bytes] of index.contents) {
      const kind = bytes.includes('"schemaVersion"') ? 'manifests' : 'blobs'
      assert.deepEqual((await registry.get(`/v2/team/app${at}/${kind}/${digest}`)).body, bytes)
    }
  }
  const again = await image('load', join(folder, 'image.tar'), `${registry.host}/team/app0:1.0`)
  assert.match(again.out, /Everything was there already/)
})

test("docker's old format gets the same manifest each time, links and compressed layers included", async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const file = join(folder, 'saved.tar')
  const same = randomBytes(5000)
  const saved = makeImage('amd64', [same, randomBytes(9000), same])
  const files = dockerSaveFiles(saved)
  files.delete('layer2/layer.tar')
  files.set('layer1/layer.tar', gzipSync(saved.layers[1] ?? ''))
  await writeFile(file, await tarOf(files, { 'layer2/layer.tar': '../layer0/layer.tar' }))
  const loaded = await image('load', file, `${registry.host}/team/app:1.0`)
  assert.equal(loaded.code, 0, loaded.err)
  const manifest = JSON.parse((await registry.get('/v2/team/app/manifests/1.0')).body.toString()) as {
    config: { digest: Digest }
    layers: { digest: Digest; mediaType: string }[]
  }
  assert.equal(manifest.config.digest, digestOf(saved.config))
  const [first, packed, third] = manifest.layers
  assert.deepEqual([first?.digest, third?.digest], [digestOf(same), digestOf(same)])
  assert.equal(packed?.mediaType, 'application/vnd.oci.image.layer.v1.tar+gzip')
  assert.match((await image('load', file, `${registry.host}/team/app:1.0`)).out, /Everything was there already/)
})

test('an archive that is cut, lies or lacks something is refused, and nothing is tagged', async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const whole = makeImage()
  const tar = await tarOf(layoutFiles([whole]))
  const [layer] = whole.layers
  const layerName = `blobs/${digestOf(layer ?? '').replace(':', '/')}`
  const changed = (edit: (files: Files) => void, files = layoutFiles([whole])): Promise<Buffer> => {
    edit(files)
    return tarOf(files)
  }
  const wrong = Buffer.from(layer ?? '')
  wrong[1] = wrong.readUInt8(1) ^ 1
  const saved = dockerSaveFiles(whole)
  const cases: [string, Buffer, RegExp][] = [
    ['cut', tar.subarray(0, 200_000), /damaged or cut off/],
    ['cut at the end of a file', tar.subarray(0, tar.length - 1024 - 2048 - 512), /missing|cut off/],
    ['cut gzip', gzipSync(tar).subarray(0, 100_000), /damaged or cut off/],
    ['no tar', Buffer.from('#!/bin/sh\n'.repeat(200)), /no tar archive/],
    ['empty', Buffer.alloc(0), /empty|no tar/],
    ['other tar', await tarOf(new Map([['a', Buffer.from('b')]])), /neither index.json/],
    ['lacks a layer', await changed((files) => files.delete(layerName)), /is missing; the image is not complete/],
    ['wrong byte', await changed((files) => files.set(layerName, wrong)), /has the digest sha256:/],
    ['wrong size', await changed((files) => files.set(layerName, wrong.subarray(1))), /bytes instead of/],
    ['bad index', await changed((files) => files.set('index.json', Buffer.from('{"manifests":[{}]}'))), /malformed/],
    ['no index', await changed((files) => files.set('index.json', Buffer.from('{'))), /cannot be read/],
    ['docker: wrong layer', await changed((f) => f.set('layer0/layer.tar', wrong), new Map(saved)), /its config says/],
    ['docker: lacks a layer', await changed((f) => f.delete('layer1/layer.tar'), new Map(saved)), /is missing/],
  ]
  for (const [name, bytes, message] of cases) {
    const file = join(folder, name)
    await writeFile(file, bytes)
    const { code, err } = await image('load', file, `${registry.host}/team/app:1.0`)
    assert.equal(code, 1, name)
    assert.match(err, message, name)
    assert.ok(!err.includes('    at '), `${name}: ${err}`)
    assert.equal((await registry.get('/v2/team/app/manifests/1.0')).status, 404, name)
  }
  // In a folder, wrong bytes are seen while they are sent.
  await writeFolder(join(folder, 'layout'), layoutFiles([whole]).set(layerName, wrong))
  const sent = await image('load', join(folder, 'layout'), `${registry.host}/team/app:1.0`)
  assert.equal(sent.code, 1)
  assert.match(sent.err, /its bytes have the digest/)
  assert.equal((await registry.get('/v2/team/app/manifests/1.0')).status, 404)
  // A link out of the folder is not followed.
  const files = layoutFiles([whole])
  files.delete(layerName)
  await writeFolder(join(folder, 'linked'), files)
  await symlink('/etc/passwd', join(folder, 'linked', layerName))
  assert.match((await image('load', join(folder, 'linked'), `${registry.host}/team/app:1.0`)).err, /missing/)
})

test('one image of several, and one platform of an archive that lacks the others', async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const file = join(folder, 'several.tar')
  const [one, two] = [makeImage(), makeImage()]
  await writeFile(file, await tarOf(layoutFiles([one, two], ['one', 'two'])))
  const unsure = await image('load', file, `${registry.host}/team/app:1.0`)
  assert.equal(unsure.code, 2)
  assert.match(unsure.err, /choose one with --image:\n.*one\n.*two/)
  assert.equal((await image('load', file, `${registry.host}/team/app:1.0`, '--image', 'two')).code, 0)
  assert.equal(digestOf((await registry.get('/v2/team/app/manifests/1.0')).body), two.root.digest)
  assert.match((await image('load', file, `${registry.host}/x:1`, '--image', 'three')).err, /no image "three"/)

  const index = makeIndex()
  const files = layoutFiles([index])
  const { manifests } = JSON.parse(index.contents.get(index.root.digest)?.toString() ?? '') as {
    manifests: { digest: Digest }[]
  }
  files.delete(`blobs/${(manifests[1]?.digest ?? '').replace(':', '/')}`)
  await writeFile(file, await tarOf(files))
  const incomplete = await image('load', file, `${registry.host}/team/multi:1.0`)
  assert.deepEqual([incomplete.code, /--platform/.test(incomplete.err)], [1, true])
  const partly = await image('load', file, `${registry.host}/team/multi:1.0`, '--platform', 'linux/amd64')
  assert.equal(partly.code, 0, partly.err)
  assert.equal(digestOf((await registry.get('/v2/team/multi/manifests/1.0')).body), manifests[0]?.digest)
})
