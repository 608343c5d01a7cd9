import assert from 'node:assert/strict'
import { mkdtemp, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import fc from 'fast-check'
import { isHelperName } from './credential-helper.ts'
import { basicAuthorization, credentialKey, parseBasicAuthorization } from './credentials.ts'
import { DockerConfig, DockerConfigError } from './docker-config.ts'
import { SettingsBook } from './options.ts'

const encoded = (text: string): string => Buffer.from(text).toString('base64')

async function configFile(t: TestContext): Promise<{ file: string; write: (content: string) => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-docker-config-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const file = join(folder, 'config.json')
  let version = 0
  return {
    file,
    async write(content) {
      await writeFile(file, content)
      // So that two versions of the same length within the clock's grain differ.
      await utimes(file, new Date(), new Date(1_700_000_000_000 + 1000 * version++))
    },
  }
}

test('keys in all their spellings, and which of several counts', async (t) => {
  const { file, write } = await configFile(t)
  await write(
    JSON.stringify({
      auths: {
        'https://index.docker.io/v1/': { auth: encoded('hub:secret') },
        'GHCR.io': { auth: encoded('gh:with:colons') },
        'https://reg.example.com:5000/v2/': { username: 'plain', password: 'text' },
        'quay.io': { username: 'all', password: '1' },
        'quay.io/team': { username: 'team', password: '2' },
        'quay.io/team/app': { username: 'app', password: '3' },
        'token.example.com': { identitytoken: 'refresh', auth: encoded('<token>:') },
        'empty.example.com': {},
        'odd.example.com': { auth: 'bm9jb2xvbg==' },
        'nul.example.com': { auth: encoded('user:pad\0\0') },
      },
      credHelpers: { 'ecr.example.com': 'ecr-login', 'bad.example.com': '../../bin/sh' },
    }),
  )
  const config = new DockerConfig(file)
  const find = async (host: string, repository = 'a/b') => {
    const entry = await config.find(host, repository)
    return entry?.kind === 'credential' ? entry.credential : entry
  }
  assert.deepEqual(await find('docker.io', 'library/ubuntu'), { username: 'hub', password: 'secret' })
  assert.deepEqual(await find('ghcr.io'), { username: 'gh', password: 'with:colons' })
  assert.deepEqual(await find('reg.example.com:5000'), { username: 'plain', password: 'text' })
  assert.equal(await find('reg.example.com'), undefined)
  assert.deepEqual(await find('quay.io', 'team/app'), { username: 'app', password: '3' })
  assert.deepEqual(await find('quay.io', 'team/application'), { username: 'team', password: '2' })
  assert.deepEqual(await find('quay.io', 'other'), { username: 'all', password: '1' })
  assert.deepEqual(await find('token.example.com'), { identityToken: 'refresh' })
  assert.equal(await find('empty.example.com'), undefined)
  assert.equal(await find('odd.example.com'), undefined)
  assert.deepEqual(await find('nul.example.com'), { username: 'user', password: 'pad' })
  assert.deepEqual(await find('ecr.example.com'), { kind: 'helper', helper: 'ecr-login', server: 'ecr.example.com' })
  assert.equal(await find('bad.example.com'), undefined)
})

test('credsStore stands behind everything else, with the old key of Docker Hub', async (t) => {
  const { file, write } = await configFile(t)
  await write(JSON.stringify({ credsStore: 'pass', auths: { 'ghcr.io': { auth: encoded('a:b') } } }))
  const config = new DockerConfig(file)
  const server = 'https://index.docker.io/v1/'
  assert.deepEqual(await config.find('docker.io', 'x'), { kind: 'helper', helper: 'pass', server })
  assert.equal((await config.find('ghcr.io', 'x'))?.kind, 'credential')
})

test('names of helpers name nothing else', () => {
  for (const name of ['ecr-login', 'osxkeychain', 'a.b_c']) assert.equal(isHelperName(name), true, name)
  for (const name of ['', '../x', 'a/b', '-rf', 'a b', 'a;b', 'x'.repeat(65), 7, null]) {
    assert.equal(isHelperName(name), false, String(name))
  }
})

test('whatever is in the file, there is an entry, none, or the right error', async (t) => {
  const { file, write } = await configFile(t)
  const config = new DockerConfig(file)
  const value = fc.oneof(fc.jsonValue(), fc.record({ auth: fc.jsonValue() }), fc.constant(null))
  const content = fc.oneof(
    fc.string(),
    fc.json(),
    fc
      .tuple(fc.constantFrom('auths', 'credHelpers', 'credsStore'), value)
      .map(([key, inner]) => JSON.stringify({ [key]: { 'ghcr.io': inner } })),
  )
  await fc.assert(
    fc.asyncProperty(content, async (text) => {
      await write(text)
      try {
        const entry = await config.find('ghcr.io', 'a/b')
        assert.ok(entry === undefined || entry.kind === 'credential' || isHelperName(entry.helper))
      } catch (error) {
        assert.ok(error instanceof DockerConfigError, String(error))
      }
    }),
    { numRuns: 60 },
  )
})

test('Basic headers are read back, and the name of a login does not tell it', () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), (name, password) => {
      const username = name.replaceAll(':', '')
      const header = basicAuthorization({ username, password }) ?? ''
      assert.deepEqual(parseBasicAuthorization(header), { username, password })
      const key = credentialKey({ username, password })
      assert.equal(key, credentialKey({ username, password }))
      assert.notEqual(key, credentialKey({ username: `${username}x`, password }))
      assert.ok(password.length < 8 || !key.includes(password))
    }),
  )
  for (const header of ['Bearer x', 'Basic', 'Basic !!', 'Basic bm9jb2xvbg==']) {
    assert.equal(parseBasicAuthorization(header), undefined, header)
  }
})

test("the login of docker.io is found, too, where its endpoint is one of Docker Hub's own names", async (t) => {
  const { file, write } = await configFile(t)
  await write(JSON.stringify({ auths: { 'https://index.docker.io/v1/': { auth: encoded('hub:secret') } } }))
  const find = async (endpoint: string) => {
    const { credentialHost } = new SettingsBook({ 'docker.io': { endpoint } }).of('docker.io')
    return { credentialHost, entry: await new DockerConfig(file).find(credentialHost, 'library/x') }
  }
  const credential = { username: 'hub', password: 'secret' }
  for (const endpoint of ['https://registry-1.docker.io', 'https://index.docker.io:443/']) {
    assert.deepEqual((await find(endpoint)).entry, { kind: 'credential', credential }, endpoint)
  }
  for (const host of ['mirror.example:5000', 'registry-1.docker.io:5000', '[::1]:5000', 'odd_name']) {
    assert.deepEqual(await find(`https://${host}`), { credentialHost: host, entry: undefined })
  }
})
