import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestHex, digestOf, MEDIA_TYPE_OCI_INDEX } from '@shoal/oci'
import { fails, requestOptions, sendError, sendManifest, startServer, startUpstream, targetAt } from './testing.ts'

const digest = digestOf('subject')

test('tags: pages by Link until there are as many as asked for, or all', async (t) => {
  const all = ['a', 'b', 'c', 'd', 'e']
  const server = await startServer(t, (request, response) => {
    const url = new URL(request.url, 'http://x')
    // Pages of two, whatever is asked, and a token of its own for the next one.
    const from = Number(url.searchParams.get('page') ?? all.indexOf(url.searchParams.get('last') ?? '') + 1)
    if (from + 2 < all.length) {
      response.setHeader('link', `<${url.pathname}?n=2&page=${from + 2}>; rel="next"`)
    }
    response.end(JSON.stringify({ name: 'team/app', tags: all.slice(from, from + 2) }))
  })
  const upstream = startUpstream(t)
  const list = (page: { limit?: number; after?: string }) =>
    upstream.listTags(targetAt(server.host), page, requestOptions())
  assert.deepEqual(await list({}), { tags: all, more: false })
  assert.deepEqual(await list({ limit: 2 }), { tags: ['a', 'b'], more: true })
  assert.deepEqual(await list({ limit: 3 }), { tags: ['a', 'b', 'c'], more: true })
  assert.deepEqual(await list({ limit: 5 }), { tags: all, more: false })
  assert.deepEqual(await list({ limit: 2, after: 'b' }), { tags: ['c', 'd'], more: true })
  assert.deepEqual(await list({ after: 'c' }), { tags: ['d', 'e'], more: false })
  assert.equal((await list({ limit: 0 })).tags.length, 0)
  assert.equal(server.seen.at(4)?.url, '/v2/team/app/tags/list?n=3')
})

test('tags: registries that refuse long pages, ignore where to begin, or take only places of their own', async (t) => {
  const all = Array.from({ length: 2500 }, (_, at) => `v${String(at).padStart(4, '0')}`)
  const server = await startServer(t, (request, response) => {
    const url = new URL(request.url, 'http://x')
    const way = request.url.split('/')[3]
    const [n, last] = [Number(url.searchParams.get('n') ?? 100), url.searchParams.get('last')]
    if (way === 'ignores') return void response.end(JSON.stringify({ tags: all }))
    if (n > 1000) return sendError(response, 405, 'UNSUPPORTED')
    if (last !== null && !last.startsWith('place')) return sendError(response, 400, 'UNSUPPORTED')
    const from = Number(last?.slice('place'.length) ?? 0)
    if (from + n < all.length) {
      response.setHeader('link', `<${url.pathname}?n=${n}&last=place${from + n}>; rel="next"`)
    }
    response.end(JSON.stringify({ tags: all.slice(from, from + n) }))
  })
  const upstream = startUpstream(t)
  for (const way of ['ignores', 'places']) {
    const list = (page: { limit: number; after?: string }) =>
      upstream.listTags(targetAt(server.host, `x/${way}`), page, requestOptions())
    assert.deepEqual(await list({ limit: 10_000 }), { tags: all, more: false }, way)
    assert.deepEqual(await list({ limit: 100 }), { tags: all.slice(0, 100), more: true }, way)
    const next = await list({ limit: 100, after: all[99]! })
    assert.deepEqual(next, { tags: all.slice(100, 200), more: true }, way)
    const late = await list({ limit: 100, after: all[2449]! })
    assert.deepEqual(late, { tags: all.slice(2450), more: false }, way)
  }
  const gone = await upstream.listTags(targetAt(server.host, 'x/places'), { after: 'gone' }, requestOptions())
  assert.deepEqual(gone, { tags: [], more: false })
})

test('all pages of a list together have a limit', async (t) => {
  const server = await startServer(t, (request, response) => {
    const page = Number(new URL(request.url, 'http://x').searchParams.get('page') ?? 0)
    response.setHeader('link', `<${request.url.split('?')[0]}?page=${page + 1}>; rel="next"`)
    response.end(JSON.stringify({ tags: [], manifests: [], more: 'x'.repeat(7 * 1024 * 1024) }))
  })
  const upstream = startUpstream(t)
  const target = targetAt(server.host)
  await assert.rejects(
    upstream.listTags(target, {}, requestOptions()),
    fails('PROTOCOL', /more than the 16777216 bytes/),
  )
  assert.equal(server.seen.length, 3)
  const referrers = upstream.listReferrers(target, digest, undefined, requestOptions())
  await assert.rejects(referrers, fails('PROTOCOL', /more than the 16777216 bytes/))
})

test('tags: lists that are empty, too long, malformed, or that link to elsewhere', async (t) => {
  const server = await startServer(t, (request, response) => {
    const way = request.url.split('/')[3]
    if (way === 'null') response.end('{"name":"x","tags":null}')
    else if (way === 'odd') response.end('{"tags":["ok","-not ok",7,null]}')
    else if (way === 'broken') response.end('{"tags":')
    else if (way === 'list') response.end('{"tags":{}}')
    else if (way === 'missing') sendError(response, 404, 'NAME_UNKNOWN')
    else if (way === 'loop') {
      response.setHeader('link', `<${request.url.split('?')[0]}?last=a>; rel=next`)
      response.end('{"tags":["a"]}')
    } else if (way === 'away') {
      response.setHeader('link', '<http://169.254.169.254/latest?x=1>; rel="next"')
      response.end(request.url.includes('?') ? '{"tags":["b"]}' : '{"tags":["a"]}')
    } else response.end(JSON.stringify({ tags: ['a', 'b', 'c'] }))
  })
  const upstream = startUpstream(t)
  const list = (name: string, page = {}) =>
    upstream.listTags(targetAt(server.host, `x/${name}`), page, requestOptions())
  assert.deepEqual(await list('null'), { tags: [], more: false })
  assert.deepEqual(await list('odd'), { tags: ['ok'], more: false })
  assert.deepEqual(await list('full', { limit: 2 }), { tags: ['a', 'b'], more: true })
  await assert.rejects(list('broken'), fails('PROTOCOL', /cannot be read/))
  await assert.rejects(list('list'), fails('PROTOCOL', /cannot be read/))
  await assert.rejects(list('missing'), fails('NOT_FOUND'))
  assert.deepEqual(await list('loop'), { tags: ['a', 'a'], more: false })
  // Whatever host a link names, the next page is asked of the registry.
  assert.deepEqual(await list('away'), { tags: ['a', 'b'], more: false })
})

test('referrers by the API, filtered here when the registry did not', async (t) => {
  const descriptors = ['a/b', 'c/d'].map((artifactType) => ({ mediaType: 'x/y', digest, size: 1, artifactType }))
  const server = await startServer(t, (request, response) => {
    const second = request.url.includes('page=2')
    if (!second) response.setHeader('link', `<${request.url.split('?')[0]}?page=2>; rel="next"`)
    response.setHeader('content-type', MEDIA_TYPE_OCI_INDEX)
    response.end(JSON.stringify({ schemaVersion: 2, manifests: [descriptors[second ? 1 : 0]] }))
  })
  const upstream = startUpstream(t)
  const all = await upstream.listReferrers(targetAt(server.host), digest, undefined, requestOptions())
  assert.deepEqual(all, { descriptors, filtered: false })
  const some = await upstream.listReferrers(targetAt(server.host), digest, 'c/d', requestOptions())
  assert.deepEqual(some, { descriptors: [descriptors[1]], filtered: true })
  assert.equal(server.seen[2]?.url, `/v2/team/app/referrers/${digest}?artifactType=c%2Fd`)
})

test('referrers by tag, where there is no API', async (t) => {
  for (const status of [404, 400, 405, 501]) {
    const descriptors = [{ mediaType: 'x/y', digest, size: 1, artifactType: 'a/b' }]
    const server = await startServer(t, (request, response) => {
      if (request.url.includes('/referrers/')) return sendError(response, status, 'UNSUPPORTED')
      if (!request.url.endsWith(`/manifests/sha256-${digestHex(digest)}`)) return sendError(response, 404, 'X')
      response.setHeader('content-type', MEDIA_TYPE_OCI_INDEX)
      response.end(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPE_OCI_INDEX, manifests: descriptors }))
    })
    const upstream = startUpstream(t)
    const found = await upstream.listReferrers(targetAt(server.host), digest, undefined, requestOptions())
    assert.deepEqual(found, { descriptors, filtered: false }, String(status))
    const none = await upstream.listReferrers(targetAt(server.host), digestOf('other'), 'a/b', requestOptions())
    assert.deepEqual(none, { descriptors: [], filtered: true })
  }
  const down = await startServer(t, (_request, response) => sendError(response, 503, 'X'))
  const asked = startUpstream(t).listReferrers(targetAt(down.host), digest, undefined, requestOptions())
  await assert.rejects(asked, fails('SERVER_ERROR'))
})

test("chunk lists are asked only of registries that have shown to be Shoal's", async (t) => {
  const hashes = Buffer.alloc(96, 5)
  let answer: unknown = { size: 2500, chunkSize: 1000, hashes: hashes.toString('base64') }
  let own = false
  const server = await startServer(t, (request, response) => {
    if (own) response.setHeader('x-shoal-origin', '1')
    if (!request.url.includes('/_shoal/')) sendManifest(request, response)
    else if (answer === undefined) sendError(response, 404, 'BLOB_UNKNOWN')
    else response.end(JSON.stringify(answer))
  })
  const upstream = startUpstream(t)
  const target = targetAt(server.host)
  const ask = () => upstream.chunkList(target, digest, requestOptions())
  await upstream.headManifest(target, 'x', requestOptions())
  assert.equal(await ask(), undefined)
  assert.equal(server.seenAt('/_shoal/').length, 0)
  own = true
  await upstream.headManifest(target, 'x', requestOptions())
  assert.deepEqual(await ask(), { sizeBytes: 2500, chunkSizeBytes: 1000, hashes: new Uint8Array(hashes) })
  assert.equal(server.seenAt('/_shoal/')[0]?.url, `/v2/team/app/_shoal/chunks/${digest}`)
  for (const wrong of [
    null,
    { size: 3001, chunkSize: 1000, hashes: hashes.toString('base64') },
    { size: -1, chunkSize: 1000, hashes: '' },
    { size: 1, chunkSize: 0, hashes: '' },
    { size: '1', chunkSize: 1, hashes: '' },
    { size: 0, chunkSize: 1, hashes: 7 },
  ]) {
    answer = wrong
    await assert.rejects(ask(), fails('PROTOCOL', /chunk list/), JSON.stringify(wrong))
  }
  answer = undefined
  assert.equal(await ask(), undefined)
  // Another registry has taken its place.
  own = false
  await upstream.headManifest(target, 'x', requestOptions())
  const before = server.seen.length
  assert.equal(await ask(), undefined)
  assert.equal(server.seen.length, before)
})

test('referrers: a list longer than any call has arguments is cut, after it was filtered', async (t) => {
  const wanted = { artifactType: 'a/b' }
  const server = await startServer(t, (request, response) => {
    if (request.url.includes('/long/')) response.end(`{"manifests":[${'0,'.repeat(500_000)}0]}`)
    else response.end(JSON.stringify({ manifests: [...Array.from({ length: 20_000 }, () => ({})), wanted] }))
  })
  const upstream = startUpstream(t)
  const long = await upstream.listReferrers(targetAt(server.host, 'long/x'), digest, undefined, requestOptions())
  assert.equal(long.descriptors.length, 10_000)
  const found = await upstream.listReferrers(targetAt(server.host), digest, 'a/b', requestOptions())
  assert.deepEqual(found.descriptors, [wanted])
})
