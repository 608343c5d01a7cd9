// save, copy, list and inspect between registries in this process.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer, text } from 'node:stream/consumers'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import {
  digestOf,
  MEDIA_TYPE_OCI_CONFIG,
  MEDIA_TYPE_OCI_EMPTY,
  MEDIA_TYPE_OCI_MANIFEST,
  type Descriptor,
} from '@shoal/oci'
import { createUpstream } from '@shoal/upstream'
import { extract } from 'tar-stream'
import {
  image,
  layoutFiles,
  makeImage,
  makeIndex,
  startRegistry,
  tarOf,
  temporaryFolder,
  type Files,
} from './testing.ts'

async function untar(file: string): Promise<Files> {
  const parser = extract()
  parser.end(await readFile(file))
  const files: Files = new Map()
  for await (const entry of parser) {
    const pieces: Buffer[] = []
    for await (const piece of entry as AsyncIterable<Buffer>) pieces.push(piece)
    files.set(entry.header.name, Buffer.concat(pieces))
  }
  return files
}

test('what is saved can be loaded again, by docker too, and is the same each time', async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const index = makeIndex()
  await writeFile(join(folder, 'in.tar'), await tarOf(layoutFiles([index])))
  await image('load', join(folder, 'in.tar'), `${registry.host}/team/app:1.0`)
  const name = `${registry.host}/team/app:1.0`
  const out = join(folder, 'out.tar')
  const saved = await image('save', name, out)
  assert.equal(saved.code, 0, saved.err)
  const files = await untar(out)
  for (const [digest, bytes] of index.contents) assert.deepEqual(files.get(`blobs/${digest.replace(':', '/')}`), bytes)
  const again = await image('load', out, `${registry.host}/copy/app:1.0`)
  assert.equal(again.code, 0, again.err)
  assert.equal(digestOf((await registry.get('/v2/copy/app/manifests/1.0')).body), index.root.digest)

  await image('save', name, join(folder, 'again.tar'))
  assert.deepEqual(await readFile(join(folder, 'again.tar')), await readFile(out))

  const one = await image('save', name, join(folder, 'arm.tar'), '--platform', 'linux/arm64')
  assert.equal(one.code, 0, one.err)
  const arm = await untar(join(folder, 'arm.tar'))
  const [entry] = JSON.parse(arm.get('manifest.json')?.toString() ?? '') as {
    Config: string
    RepoTags: string[]
    Layers: string[]
  }[]
  assert.deepEqual(entry?.RepoTags, [name])
  assert.match(arm.get(entry?.Config ?? '')?.toString() ?? '', /"architecture":"arm64"/)
  assert.ok(entry?.Layers.every((layer) => arm.has(layer)))
  const wrong = await image('save', name, join(folder, 'mips.tar'), '--platform', 'linux/mips')
  assert.deepEqual([wrong.code, /there are: linux\/amd64, linux\/arm64/.test(wrong.err)], [1, true])
  assert.deepEqual((await readdir(folder)).toSorted(), ['again.tar', 'arm.tar', 'in.tar', 'out.tar'])
})

test('what is saved to standard output is what a file would be, and is for no terminal', async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const name = `${registry.host}/team/app:1.0`
  await writeFile(join(folder, 'in.tar'), await tarOf(layoutFiles([makeImage()])))
  await image('load', join(folder, 'in.tar'), name)
  assert.equal((await image('save', name, join(folder, 'out.tar'))).code, 0)
  const command = fileURLToPath(new URL('../../../bin/shoal.ts', import.meta.url))
  const child = spawn(process.execPath, [command, 'image', 'save', name, '-'], { cwd: folder })
  const [written, told, [code]] = await Promise.all([buffer(child.stdout), text(child.stderr), once(child, 'close')])
  assert.equal(code, 0, told)
  assert.deepEqual(written, await readFile(join(folder, 'out.tar')))
  assert.match(told, /team\/app:1\.0 sha256:/)
  const before = process.stdout.isTTY
  t.after(() => (process.stdout.isTTY = before))
  process.stdout.isTTY = true
  const refused = await image('save', name, '-')
  assert.deepEqual([refused.code, /not for a terminal/.test(refused.err)], [2, true])
  assert.deepEqual((await readdir(folder)).toSorted(), ['in.tar', 'out.tar'])
})

test('a registry that gives wrong bytes leaves no archive and no tag', async (t) => {
  const good = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const app = makeImage()
  await writeFile(join(folder, 'in.tar'), await tarOf(layoutFiles([app])))
  await image('load', join(folder, 'in.tar'), `${good.host}/team/app:1.0`)
  const layer = digestOf(app.layers[0] ?? '')
  const liar = http.createServer((request, response) => {
    const lie = async (): Promise<void> => {
      const { status, body, headers } = await good.get(request.url ?? '', request.method)
      if (request.url?.endsWith(layer) === true && body.length > 0) body[7] = body.readUInt8(7) ^ 1
      const length = headers.get('content-length') ?? String(body.length)
      const type = headers.get('content-type') ?? ''
      const digest = headers.get('docker-content-digest') ?? ''
      response.writeHead(status, { 'content-type': type, 'content-length': length, 'docker-content-digest': digest })
      response.end(body)
    }
    lie().catch(() => response.destroy())
  })
  await new Promise<void>((resolve) => liar.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    liar.closeAllConnections()
    liar.close()
  })
  const host = `127.0.0.1:${(liar.address() as AddressInfo).port}`
  const saved = await image('save', `${host}/team/app:1.0`, join(folder, 'out.tar'))
  assert.deepEqual([saved.code, /for sha256:/.test(saved.err)], [1, true], saved.err)
  assert.deepEqual(await readdir(folder), ['in.tar'])
  const copied = await image('copy', `${host}/team/app:1.0`, `${good.host}/copy/app:1.0`)
  assert.deepEqual([copied.code, /its bytes have the digest/.test(copied.err)], [1, true], copied.err)
  assert.equal((await good.get('/v2/copy/app/manifests/1.0')).status, 404)
})

test('copies an index to another registry, a second time nothing, within a registry by mounting', async (t) => {
  const [from, to] = [await startRegistry(t), await startRegistry(t)]
  const folder = await temporaryFolder(t)
  const index = makeIndex()
  await writeFile(join(folder, 'in.tar'), await tarOf(layoutFiles([index])))
  await image('load', join(folder, 'in.tar'), `${from.host}/team/app:1.0`)
  const first = await image('copy', `${from.host}/team/app:1.0`, `${to.host}/mirror/app:1.0`)
  assert.equal(first.code, 0, first.err)
  assert.match(first.out, /6 blobs .* sent, 0 .* mounted, 0 .* there already, 3 manifests put/)
  assert.deepEqual((await to.get('/v2/mirror/app/manifests/1.0')).body, index.contents.get(index.root.digest))
  const second = await image('copy', `${from.host}/team/app:1.0`, `${to.host}/mirror/app:1.0`)
  assert.match(second.out, /Everything was there already/)
  const moved = await image('copy', `${to.host}/mirror/app@${index.root.digest}`, `${to.host}/other/app`)
  assert.match(moved.out, /0 blobs .* sent, 6 .* mounted/)
  assert.equal((await to.get('/v2/other/app/manifests/latest')).status, 200)
  const one = await image('copy', `${to.host}/mirror/app:1.0`, `${to.host}/one/app:1`, '--platform', 'linux/arm64')
  assert.match(one.out, /3 .* mounted.*1 manifests put/)
  const other = digestOf('other')
  const refused = await image('copy', `${from.host}/team/app:1.0`, `${to.host}/mirror/app@${other}`)
  assert.deepEqual([refused.code, /name the target by a tag/.test(refused.err)], [1, true])
})

test('an image for one platform is taken for no other', async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const file = join(folder, 'in.tar')
  await writeFile(file, await tarOf(layoutFiles([makeImage()])))
  const name = `${registry.host}/team/app:1.0`
  assert.equal((await image('load', file, name, '--platform', 'linux/amd64/v2')).code, 0)
  for (const args of [
    ['load', file, `${registry.host}/team/arm:1.0`],
    ['copy', name, `${registry.host}/team/arm:1.0`],
    ['save', name, join(folder, 'arm.tar')],
    ['inspect', name],
  ]) {
    const { code, out, err } = await image(...args, '--platform', 'linux/arm64')
    assert.deepEqual([code, out], [1, ''], args.join(' '))
    assert.match(err, /is for linux\/amd64 only, not for linux\/arm64$/m)
  }
  assert.equal((await registry.get('/v2/team/arm/manifests/1.0')).status, 404)
  assert.deepEqual(await readdir(folder), ['in.tar'])
  assert.equal((await image('save', name, join(folder, 'amd.tar'), '--platform', 'linux/amd64')).code, 0)
})

test('an image that does not say for what it is fits every platform', async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const config = Buffer.from('{}')
  const describe = (mediaType: string): Descriptor => ({ mediaType, digest: digestOf(config), size: config.length })
  for (const [at, type] of [MEDIA_TYPE_OCI_EMPTY, MEDIA_TYPE_OCI_CONFIG].entries()) {
    const fields = { schemaVersion: 2, mediaType: MEDIA_TYPE_OCI_MANIFEST, config: describe(type), layers: [] }
    const manifest = Buffer.from(JSON.stringify(fields))
    const root = { mediaType: MEDIA_TYPE_OCI_MANIFEST, digest: digestOf(manifest), size: manifest.length }
    const contents = new Map([manifest, config].map((bytes) => [digestOf(bytes), bytes] as const))
    await writeFile(join(folder, 'in.tar'), await tarOf(layoutFiles([{ root, contents }])))
    const loaded = await image(
      'load',
      join(folder, 'in.tar'),
      `${registry.host}/team/any${at}:1`,
      '--platform',
      'linux/s390x',
    )
    assert.equal(loaded.code, 0, loaded.err)
  }
})

test('signatures come along when they are asked for', async (t) => {
  const [from, to] = [await startRegistry(t), await startRegistry(t)]
  const folder = await temporaryFolder(t)
  const app = makeImage()
  await writeFile(join(folder, 'in.tar'), await tarOf(layoutFiles([app])))
  await image('load', join(folder, 'in.tar'), `${from.host}/team/app:1.0`)
  const upstream = createUpstream({ proxy: false })
  t.after(() => upstream.close())
  const signal = AbortSignal.timeout(20_000)
  const target = { registry: from.host, repository: 'team/app' }
  const empty = Buffer.from('{}')
  const signature = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPE_OCI_MANIFEST,
      artifactType: 'application/vnd.example.signature',
      config: { mediaType: MEDIA_TYPE_OCI_EMPTY, digest: digestOf(empty), size: 2 },
      layers: [],
      subject: app.root,
    }),
  )
  const source = { digest: digestOf(empty), sizeBytes: 2, open: () => Readable.from([empty]) }
  await upstream.uploadBlob(target, source, { signal })
  await upstream.putManifest(target, { bytes: signature, mediaType: MEDIA_TYPE_OCI_MANIFEST }, [], { signal })
  await image('copy', `${from.host}/team/app:1.0`, `${to.host}/plain/app:1.0`)
  const copied = await image('copy', `${from.host}/team/app:1.0`, `${to.host}/signed/app:1.0`, '--referrers')
  assert.equal(copied.code, 0, copied.err)
  const listed = async (repository: string): Promise<number> => {
    const { body } = await to.get(`/v2/${repository}/referrers/${app.root.digest}`)
    return (JSON.parse(body.toString()) as { manifests: unknown[] }).manifests.length
  }
  assert.deepEqual([await listed('plain/app'), await listed('signed/app')], [0, 1])
})

test('lists what a registry has, and shows what an image is', async (t) => {
  const registry = await startRegistry(t)
  const folder = await temporaryFolder(t)
  const index = makeIndex()
  await writeFile(join(folder, 'in.tar'), await tarOf(layoutFiles([index])))
  for (const name of ['team/app:1.0', 'team/app:1.1', 'team/web:2', 'teams/x:1']) {
    await image('load', join(folder, 'in.tar'), `${registry.host}/${name}`)
  }
  const all = await image('list', registry.host)
  assert.equal(all.code, 0, all.err)
  const names = (...ends: string[]): string => ends.map((end) => `${registry.host}/${end}\n`).join('')
  assert.equal(all.out, names('team/app:1.0', 'team/app:1.1', 'team/web:2', 'teams/x:1'))
  assert.equal((await image('list', `${registry.host}/team`)).out, names('team/app:1.0', 'team/app:1.1', 'team/web:2'))
  const json = JSON.parse((await image('list', `${registry.host}/team/app`, '--json')).out) as unknown
  assert.deepEqual(json, [{ repository: `${registry.host}/team/app`, tags: ['1.0', '1.1'] }])
  assert.equal((await image('list', `${registry.host}/UPPER`)).code, 2)

  const name = `${registry.host}/team/app:1.0`
  const shown = await image('inspect', name)
  assert.equal(shown.code, 0, shown.err)
  for (const part of [index.root.digest, 'linux/amd64', 'linux/arm64', '["/bin/app"]', 'team=blue', '293 KiB']) {
    assert.ok(shown.out.includes(part), `${part} in\n${shown.out}`)
  }
  const details = JSON.parse((await image('inspect', name, '--json', '--platform', 'linux/arm64')).out) as {
    images: { platform: string; layers: unknown[] }[]
  }
  assert.deepEqual([details.images.length, details.images[0]?.platform], [1, 'linux/arm64'])
  assert.equal((await image('inspect', name, '--raw')).out, index.contents.get(index.root.digest)?.toString())
  const gone = await image('inspect', `${registry.host}/team/app:none`)
  assert.deepEqual([gone.code, /does not have the manifest/.test(gone.err)], [1, true])
  assert.equal((await image('inspect', 'team/UPPER')).code, 2)
})

test('without being told, no registry elsewhere is talked to in plain HTTP', async () => {
  const { code, err } = await image('inspect', 'localhost.example.invalid:5000/team/app:1')
  assert.equal(code, 1)
  assert.match(err, /does not resolve|DNS/)
})
