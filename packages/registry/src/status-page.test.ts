import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { ApiTokens, type ApiProtection } from './api-access.ts'
import { createApiServer } from './api-server.ts'
import { addStatusPage, MAX_STATUS_ROWS, renderStatusPage, type StatusPage } from './status-page.ts'

const EMPTY: StatusPage = { title: 'Shoal', facts: [], tables: [] }
const table = (rows: StatusPage['tables'][0]['rows']) => ({ title: 'T', columns: ['A', 'B'], rows, otherwise: 'none' })

test('names from elsewhere stay text', () => {
  const evil = '<script>alert("1")</script>\u0000&'
  const page = renderStatusPage({
    title: evil,
    facts: [[evil, evil]],
    tables: [{ ...table([[evil, 1]]), title: evil }],
  })
  assert.ok(!page.includes('<script'))
  assert.ok(!page.includes('\u0000'))
  assert.equal(page.split('&#60;script&#62;').length - 1, 6)
})

test('a table is cut, a share is a bar, and none is said to be none', () => {
  const rows = Array.from({ length: MAX_STATUS_ROWS + 5 }, (_, row) => [`row ${row}`, { share: 0.5 }])
  const page = renderStatusPage({ ...EMPTY, tables: [table(rows), table([])] })
  assert.ok(page.includes('row 199') && !page.includes('row 200'))
  assert.match(page, /and 5 more/)
  assert.match(page, /<progress max="1" value="0.5"><\/progress> 50 %/)
  assert.match(page, /<p>none<\/p>/)
})

function serve(t: TestContext, needsToken: ApiProtection['needsToken']) {
  const tokens = new ApiTokens(['a-token-that-is-long-enough'])
  const server = createApiServer({
    logger: pino({ level: 'silent' }),
    registry: new Registry(),
    protection: { tokens, needsToken, advice: 'none' },
    isReady: () => true,
  })
  t.after(() => server.close())
  addStatusPage(server, () => EMPTY)
  server.get('/api/v1/thing', () => ({}))
  const get = (authorization?: string) =>
    server.inject({ url: '/', headers: authorization === undefined ? {} : { authorization } })
  return { server, get }
}

test('no script, no other place and no frame may have a part in it', async (t) => {
  const { headers, statusCode } = await serve(t, 'nothing').get()
  assert.equal(statusCode, 200)
  assert.match(String(headers['content-security-policy']), /default-src 'none'.*frame-ancestors 'none'/)
  assert.equal(headers['cache-control'], 'no-store')
})

test('who may read the API may read the page; a browser gives the token as a password', async (t) => {
  const { get, server } = serve(t, 'all')
  const basic = (pair: string) => `Basic ${Buffer.from(pair).toString('base64')}`
  const refused = await get()
  assert.deepEqual([refused.statusCode, refused.headers['www-authenticate']], [401, 'Basic realm="shoal"'])
  assert.equal((await get(basic('me:wrong'))).statusCode, 401)
  assert.equal((await get(basic('me:a-token-that-is-long-enough'))).statusCode, 200)
  assert.equal((await get('Bearer a-token-that-is-long-enough')).statusCode, 200)
  const headers = { authorization: basic('me:a-token-that-is-long-enough') }
  assert.equal((await server.inject({ url: '/api/v1/thing', headers })).statusCode, 401, 'browsers are for the page')
  assert.equal((await serve(t, 'changes').get()).statusCode, 200)
})
