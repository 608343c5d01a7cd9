import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import bcrypt from 'bcryptjs'
import { digestOf } from '@shoal/oci'
import { startOrigin, temporaryFolder, type Answer } from './testing.ts'

const UI = 'https://ui.example.com'
const preflight = (origin: string) => ({ headers: { origin, 'access-control-request-method': 'DELETE' } })
const corsHeaders = ({ headers }: Answer) => [...headers.keys()].filter((name) => name.startsWith('access-control-'))

test('pages of a named origin may use the registry, login included; those of others may not', async () => {
  await using folder = await temporaryFolder()
  const htpasswdFile = join(folder.path, 'accounts')
  await writeFile(htpasswdFile, `ann:${await bcrypt.hash('password', 4)}\n`)
  const corsOrigins = ['https://ui.example.com:443', 'http://localhost:8080']
  await using origin = await startOrigin(join(folder.path, 'data'), { htpasswdFile, corsOrigins })
  const { client } = origin
  const authorization = `Basic ${Buffer.from('ann:password').toString('base64')}`
  const blob = Buffer.from('some bytes')
  const path = `/v2/team/app/blobs/${digestOf(blob)}`
  const upload = `/v2/team/app/blobs/uploads/?digest=${digestOf(blob)}`
  assert.equal((await client.ask('POST', upload, { body: blob, headers: { authorization } })).status, 201)

  // Browsers send no login along with the question.
  const asked = await client.ask('OPTIONS', path, preflight(UI))
  assert.equal(asked.status, 204)
  assert.equal(asked.headers.get('access-control-allow-origin'), UI)
  assert.equal(asked.headers.get('access-control-allow-credentials'), 'true')
  assert.match(asked.headers.get('access-control-allow-methods') ?? '', /\bDELETE\b/)
  assert.match(asked.headers.get('access-control-allow-headers') ?? '', /\bAuthorization\b/)
  assert.equal((await client.ask('OPTIONS', '/v2/', preflight('http://localhost:8080'))).status, 204)

  const refused = await client.get(path, { origin: UI })
  assert.equal(refused.status, 401)
  const given = await client.get(path, { origin: UI, authorization })
  assert.deepEqual([given.status, given.body], [200, blob])
  for (const answer of [refused, given]) {
    assert.equal(answer.headers.get('access-control-allow-origin'), UI)
    assert.match(answer.headers.get('access-control-expose-headers') ?? '', /WWW-Authenticate/)
    assert.match(answer.headers.get('vary') ?? '', /origin/i)
  }

  for (const other of ['http://ui.example.com', `${UI}:8443`, `${UI}.evil.example`, 'https://evil.example', 'null']) {
    const answer = await client.ask('OPTIONS', path, preflight(other))
    assert.deepEqual([answer.status, corsHeaders(answer)], [404, []], other)
    assert.deepEqual(corsHeaders(await client.get(path, { origin: other, authorization })), [])
  }
  assert.deepEqual(corsHeaders(await client.get(path, { authorization })), [])
})

test('without configuration no page of another origin may do anything', async () => {
  await using folder = await temporaryFolder()
  await using origin = await startOrigin(folder.path)
  const asked = await origin.client.ask('OPTIONS', '/v2/', preflight(UI))
  assert.deepEqual([asked.status, corsHeaders(asked)], [404, []])
  const given = await origin.client.get('/v2/', { origin: UI })
  assert.deepEqual([given.status, corsHeaders(given)], [200, []])
})
