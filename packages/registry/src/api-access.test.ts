import assert from 'node:assert/strict'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it, type TestContext } from 'node:test'
import { inspect } from 'node:util'
import fc from 'fast-check'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { ApiAccessError, ApiTokens, isLoopbackHost, loadApiTokens, type ApiProtection } from './api-access.ts'
import { createApiServer } from './api-server.ts'

const TOKEN = 'a-token-that-is-long-enough'
const OTHER = 'another-token/of+base64=='

describe('isLoopbackHost', () => {
  for (const host of ['127.0.0.1', '127.255.0.9', '::1', '[::1]', 'localhost', 'LOCALHOST', '::ffff:127.0.0.1']) {
    it(`takes ${host} for this machine`, () => assert.equal(isLoopbackHost(host), true))
  }
  for (const host of [
    '0.0.0.0',
    '::',
    '10.0.0.1',
    '[fd00::1]',
    'node-1',
    'localhost.example.com',
    '',
    '127.1',
    '128.0.0.1',
  ]) {
    it(`does not take ${JSON.stringify(host)} for it`, () => assert.equal(isLoopbackHost(host), false))
  }
})

async function tokenFile(t: TestContext, text: string, mode = 0o600): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-token-'))
  t.after(() => rm(folder, { recursive: true }))
  const path = join(folder, 'token')
  await writeFile(path, text)
  await chmod(path, mode)
  return path
}

describe('loadApiTokens', () => {
  it('takes every token of the file, and sends the first', async (t) => {
    const tokens = await loadApiTokens(await tokenFile(t, `# of May\n${TOKEN}\n\n  ${OTHER}\n`, 0o640))
    assert.equal(tokens.authorization, `Bearer ${TOKEN}`)
    for (const header of [`Bearer ${TOKEN}`, `bearer   ${OTHER} `]) assert.equal(tokens.accepts(header), true, header)
    for (const header of [undefined, '', TOKEN, `Basic ${TOKEN}`, 'Bearer', 'Bearer ', `Bearer ${TOKEN}x`]) {
      assert.equal(tokens.accepts(header), false, header)
    }
  })

  it('looks at a header only once', () => {
    // Looked at again for each blank, it would take minutes.
    const startedMs = performance.now()
    assert.equal(new ApiTokens([TOKEN]).accepts(`Bearer${' '.repeat(1_000_000)}\n`), false)
    assert.ok(performance.now() - startedMs < 20_000)
  })

  for (const mode of [0o644, 0o604, 0o620, 0o602, 0o601]) {
    it(`refuses a file with mode ${mode.toString(8)}`, async (t) => {
      const path = await tokenFile(t, TOKEN, mode)
      await assert.rejects(loadApiTokens(path), (error: ApiAccessError) => {
        assert.equal(error.name, 'ApiAccessError')
        return error.message.includes(`chmod 600 ${path}`)
      })
    })
  }

  for (const text of ['', '# nothing\n', 'tiny', 'a token with spaces in it is none', `${TOKEN}\nshort\n`]) {
    it(`refuses ${JSON.stringify(text)}`, async (t) => {
      await assert.rejects(loadApiTokens(await tokenFile(t, text)), (error: Error) => {
        return error instanceof ApiAccessError && (text === '' || !error.message.includes(text.trim()))
      })
    })
  }

  it('refuses a file that is not there', () => assert.rejects(loadApiTokens('/nonexistent/token'), ApiAccessError))
})

describe('ApiTokens', () => {
  it('does not show its tokens', () => {
    const tokens = new ApiTokens([TOKEN])
    assert.doesNotMatch(inspect({ tokens }) + JSON.stringify({ tokens }), new RegExp(TOKEN))
  })

  it('accepts nothing else', () => {
    const tokens = new ApiTokens([TOKEN])
    fc.assert(fc.property(fc.string(), (text) => tokens.accepts(`Bearer ${text}`) === (text.trim() === TOKEN)))
  })
})

function server(t: TestContext, needsToken: ApiProtection['needsToken'], tokens?: ApiTokens) {
  const api = createApiServer({
    logger: pino({ level: 'silent' }),
    registry: new Registry(),
    isReady: () => true,
    protection: { tokens, needsToken, advice: 'set a token file' },
  })
  api.get('/api/v1/things', () => ({ things: [] }))
  api.post('/api/v1/things', () => ({ made: true }))
  t.after(() => api.close())
  return async (method: 'GET' | 'POST' | 'HEAD', url: string, token?: string) => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` }
    const { statusCode, headers: answered, body } = await api.inject({ method, url, headers })
    return { statusCode, challenge: answered['www-authenticate'], body }
  }
}

describe('protectApi', () => {
  it('asks for a token for everything', async (t) => {
    const ask = server(t, 'all', new ApiTokens([TOKEN]))
    for (const method of ['GET', 'HEAD', 'POST'] as const) {
      const refused = await ask(method, '/api/v1/things')
      assert.deepEqual([refused.statusCode, refused.challenge], [401, 'Bearer realm="shoal"'], method)
      assert.equal((await ask(method, '/api/v1/things?token=x', 'wrong')).statusCode, 401)
      assert.equal((await ask(method, '/api/v1/things', TOKEN)).statusCode, 200)
    }
    // However the path is written, it is the route that counts.
    assert.equal((await ask('GET', '/%61pi/v1/things')).statusCode, 401)
  })

  it('asks for a token for what changes something only', async (t) => {
    const ask = server(t, 'changes', new ApiTokens([TOKEN]))
    assert.equal((await ask('GET', '/api/v1/things')).statusCode, 200)
    assert.equal((await ask('POST', '/api/v1/things')).statusCode, 401)
    assert.equal((await ask('POST', '/api/v1/things', TOKEN)).statusCode, 200)
  })

  it('refuses changes and says what to do where there are no tokens', async (t) => {
    const ask = server(t, 'changes')
    const refused = await ask('POST', '/api/v1/things', TOKEN)
    assert.equal(refused.statusCode, 403)
    assert.match(refused.body, /set a token file/)
  })

  it('asks for nothing where nothing needs a token', async (t) => {
    assert.equal((await server(t, 'nothing')('POST', '/api/v1/things')).statusCode, 200)
  })

  it('leaves health, readiness and metrics open for probes', async (t) => {
    const ask = server(t, 'all', new ApiTokens([TOKEN]))
    for (const path of ['/healthz', '/readyz', '/metrics']) assert.equal((await ask('GET', path)).statusCode, 200, path)
  })
})
