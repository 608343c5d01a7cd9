// Where the logins of the node come from: docker configs, credential helpers, password files.
import assert from 'node:assert/strict'
import { chmod, mkdtemp, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { fails, manifestDigest, requestOptions, startUpstream, targetAt, type SeenRequest } from './testing.ts'
import type { RequestOptions, Upstream } from './upstream.ts'
import { basic, head, startTokenRegistry } from './testing-tokens.ts'

async function temporaryFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-upstream-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

test('logins from a docker config, read again when it changes', async (t) => {
  const folder = await temporaryFolder(t)
  const dockerConfigFile = join(folder, 'config.json')
  const { registry, asked } = await startTokenRegistry(t, { expiresIn: 0.001 })
  const write = (config: unknown): Promise<void> => writeFile(dockerConfigFile, JSON.stringify(config))
  await write({ auths: { [`http://${registry.host}/v2/`]: { auth: Buffer.from('user:secret').toString('base64') } } })
  const upstream = startUpstream(t, { dockerConfigFile })
  const ask = (repository?: string): Promise<unknown> =>
    upstream.headManifest(targetAt(registry.host, repository), '1.0', requestOptions())
  await ask()
  assert.equal(asked.at(-1)?.headers.authorization, basic('user:secret'))
  await write({ auths: { [registry.host]: { identitytoken: 'refresh-me' } } })
  await utimes(dockerConfigFile, new Date(), new Date(Date.now() + 5000))
  await ask()
  assert.equal(new URLSearchParams(asked.at(-1)?.body).get('refresh_token'), 'refresh-me')
  // As podman writes them: the most specific key counts.
  const wrong = { username: 'user', password: 'wrong' }
  await write({
    auths: { [registry.host]: wrong, [`${registry.host}/team/app`]: { username: 'user', password: 'secret' } },
  })
  await utimes(dockerConfigFile, new Date(), new Date(Date.now() + 10_000))
  await ask()
  await assert.rejects(ask('team/other'), fails('UNAUTHORIZED'))
})

test('a docker config that cannot be used is logged without its content, and the pull goes on without', async (t) => {
  const folder = await temporaryFolder(t)
  const lines: string[] = []
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(line) })
  const { registry } = await startTokenRegistry(t)
  const dockerConfigFile = join(folder, 'config.json')
  await head(t, registry, { dockerConfigFile, logger })
  assert.match(lines.join(''), /cannot read the docker config.*ENOENT/)
  await writeFile(dockerConfigFile, '{"auths": {"x": {"auth": "c2VjcmV0"')
  await head(t, registry, { dockerConfigFile, logger })
  assert.match(lines.join(''), /not valid JSON/)
  assert.doesNotMatch(lines.join(''), /c2VjcmV0|token-/)
})

test('credential helpers: for one registry, for all, with a refresh token, and those that fail', async (t) => {
  const folder = await temporaryFolder(t)
  const path = process.env['PATH']
  process.env['PATH'] = `${folder}${delimiter}${path}`
  t.after(() => (process.env['PATH'] = path))
  const helper = async (name: string, script: string): Promise<void> => {
    const file = join(folder, `docker-credential-${name}`)
    await writeFile(file, `#!/bin/sh\n${script}\n`)
    await chmod(file, 0o755)
  }
  const calls = join(folder, 'calls')
  await helper('good', `read server; echo "$1 $server" >> ${calls}; echo '{"Username":"user","Secret":"secret"}'`)
  await helper('refresh', `echo '{"Username":"<token>","Secret":"refresh-me"}'`)
  await helper('empty', `echo 'credentials not found in native keychain'; exit 1`)
  await helper('broken', `echo 'password is hunter2'; exit 3`)
  await helper('silent', 'sleep 60 & sleep 60')
  await helper('chatty', 'yes')
  const dockerConfigFile = join(folder, 'config.json')
  const lines: string[] = []
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(line) })

  const cases: [string, (asked: SeenRequest | undefined) => boolean, RegExp | undefined][] = [
    ['good', (asked) => asked?.headers.authorization === basic('user:secret'), undefined],
    ['refresh', (asked) => asked?.body.includes('refresh_token=refresh-me') === true, undefined],
    ['empty', (asked) => asked?.headers.authorization === undefined, undefined],
    ['broken', (asked) => asked?.headers.authorization === undefined, /exit code 3/],
    ['silent', (asked) => asked?.headers.authorization === undefined, /did not answer within/],
    ['chatty', (asked) => asked?.headers.authorization === undefined, /said more than/],
    ['missing', (asked) => asked?.headers.authorization === undefined, /not in PATH/],
  ]
  for (const [name, check, logged] of cases) {
    for (const key of ['credHelpers', 'credsStore']) {
      const { registry, asked } = await startTokenRegistry(t)
      await writeFile(
        dockerConfigFile,
        JSON.stringify({ [key]: key === 'credsStore' ? name : { [registry.host]: name } }),
      )
      lines.length = 0
      await head(t, registry, { dockerConfigFile, logger, credentialHelperTimeoutMs: name === 'silent' ? 100 : 10_000 })
      assert.ok(check(asked[0]), `${name} ${key}`)
      if (logged === undefined) assert.doesNotMatch(lines.join(''), /no credentials/)
      else assert.match(lines.join(''), logged)
      assert.doesNotMatch(lines.join(''), /hunter2|refresh-me|"secret"/)
    }
  }
})

test('a helper is run once for many requests', async (t) => {
  const folder = await temporaryFolder(t)
  const path = process.env['PATH']
  process.env['PATH'] = `${folder}${delimiter}${path}`
  t.after(() => (process.env['PATH'] = path))
  const file = join(folder, 'docker-credential-counting')
  const calls = join(folder, 'calls')
  await writeFile(calls, '')
  await writeFile(file, `#!/bin/sh\nread server; echo x >> ${calls}; echo '{"Username":"user","Secret":"secret"}'\n`)
  await chmod(file, 0o755)
  const { registry } = await startTokenRegistry(t)
  const dockerConfigFile = join(folder, 'config.json')
  await writeFile(dockerConfigFile, JSON.stringify({ credsStore: 'counting' }))
  const upstream = startUpstream(t, { dockerConfigFile })
  const one = (): Promise<unknown> => upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  await Promise.all([one(), one(), one()])
  await one()
  assert.equal(await readFile(calls, 'utf8'), 'x\n')
})

test('a helper that hangs is not run for each request, and holds up neither who gives up nor what is for everyone', async (t) => {
  const folder = await temporaryFolder(t)
  const path = process.env['PATH']
  process.env['PATH'] = `${folder}${delimiter}${path}`
  t.after(() => (process.env['PATH'] = path))
  const file = join(folder, 'docker-credential-hanging')
  const calls = join(folder, 'calls')
  await writeFile(file, `#!/bin/sh\necho x >> ${calls}; sleep 60\n`)
  await chmod(file, 0o755)
  const { registry } = await startTokenRegistry(t)
  const dockerConfigFile = join(folder, 'config.json')
  await writeFile(dockerConfigFile, JSON.stringify({ credsStore: 'hanging' }))
  const ask = (upstream: Upstream, more: Partial<RequestOptions> = {}) =>
    upstream.headManifest(targetAt(registry.host), '1.0', requestOptions(more))
  const patient = startUpstream(t, { dockerConfigFile, credentialHelperTimeoutMs: 100 })
  for (let count = 0; count < 3; count++) await ask(patient)
  assert.equal(await readFile(calls, 'utf8'), 'x\n')
  const endless = startUpstream(t, { dockerConfigFile, credentialHelperTimeoutMs: 8000 })
  await assert.rejects(ask(endless, { signal: AbortSignal.timeout(100) }), { name: 'TimeoutError' })
  assert.ok(await ask(endless, { forEveryone: true, signal: AbortSignal.timeout(6000) }))
})

test('a password file is read at each use', async (t) => {
  const folder = await temporaryFolder(t)
  const passwordFile = join(folder, 'password')
  const { registry } = await startTokenRegistry(t, { expiresIn: 0.001 })
  const upstream = startUpstream(t, { registries: { [registry.host]: { username: 'user', passwordFile } } })
  await writeFile(passwordFile, 'old\n')
  const ask = () => upstream.headManifest(targetAt(registry.host), '1.0', requestOptions())
  await assert.rejects(ask(), fails('UNAUTHORIZED'))
  await writeFile(passwordFile, 'secret\nand a second line\n')
  assert.equal((await ask()).digest, manifestDigest)
})
