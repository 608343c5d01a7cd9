// A private registry with accounts, as people use it: real clients log in, push, pull, search and delete, and are refused
// what the rules do not give them.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { execute } from '../lab/node.ts'
import { requires } from '../support/requirements.ts'
import { startDockerDaemon, thisMachine } from './runtimes.ts'
import { assertNoSecrets, startAccountsRegistry, withSecret, type AccountsRegistry } from './shoal-daemons.ts'

const PASSWORDS = { ann: 'correct horse battery', bob: 'another staple' }

/** Ann's team has a repository of its own; what is shared everybody may pull. */
function startRegistry(t: TestContext, folder: string): Promise<AccountsRegistry> {
  return startAccountsRegistry(t, join(folder, 'registry'), PASSWORDS, [
    { repositories: ['shared/**'], users: ['anonymous'], actions: ['pull'] },
    { repositories: ['team/**', 'shared/**'], users: ['ann'], actions: ['pull', 'push', 'delete'] },
  ])
}

test('docker logs in, pushes, pulls by tag and digest, searches, and is refused what is not its own', async (t) => {
  if (!requires(t, 'root', 'dockerd', 'docker', 'containerd', 'ctr', 'busybox')) return
  const place = thisMachine(t)
  const registry = await startRegistry(t, place.folder)
  const { host } = registry
  const { docker, env, close } = await startDockerDaemon(place)
  const login = (user: keyof typeof PASSWORDS, password = PASSWORDS[user]) =>
    withSecret(password, ['docker', 'login', '-u', user, '--password-stdin', host], env)
  try {
    const refused = await login('ann', 'wrong')
    assert.notEqual(refused.code, 0)
    assert.match(refused.stderr, /unauthorized|incorrect/i)
    assert.equal((await login('ann')).code, 0)

    for (const [name, text] of [
      [`${host}/team/app:1.0`, 'The old app'],
      [`${host}/team/app:2.1`, 'The app of the team'],
      [`${host}/shared/base`, 'A base for all'],
    ] as const) {
      const folder = mkdtempSync(join(place.folder, 'root'))
      writeFileSync(join(folder, 'file'), text)
      const tar = join(folder, 'root.tar')
      const { code, stderr } = await execute(['tar', '-cf', tar, '-C', folder, 'file'])
      assert.equal(code, 0, stderr)
      await docker('import', '-c', `LABEL org.opencontainers.image.description="${text}"`, tar, name)
      await docker('push', name)
    }
    const digests = (await docker('image', 'ls', '--digests', '--format', '{{.Repository}}:{{.Tag}} {{.Digest}}'))
      .stdout
    const digest = new RegExp(`${host}/team/app:2\\.1 (sha256:[0-9a-f]{64})`).exec(digests)?.[1] ?? ''
    assert.notEqual(digest, '')
    const forget = async (): Promise<void> => {
      const { stdout } = await docker('image', 'ls', '-aq')
      await docker('image', 'rm', '-f', ...new Set(stdout.split('\n').filter((id) => id !== '')))
    }
    await forget()
    for (const name of ['team/app:2.1', 'team/app:1.0', 'shared/base', `team/app@${digest}`]) {
      await docker('pull', `${host}/${name}`)
    }

    // Nobody who has not logged in sees the team's repository; what is shared is for everybody.
    await docker('logout', host)
    await forget()
    await docker('pull', `${host}/shared/base`)
    await assert.rejects(docker('pull', `${host}/team/app:2.1`), /denied|unauthorized/i)
    const found = (await docker('search', `${host}/base`)).stdout
    assert.match(found, /shared\/base\s+A base for all/)
    assert.doesNotMatch((await docker('search', `${host}/app`)).stdout, /team\/app/)
    assert.equal((await login('bob')).code, 0)
    await assert.rejects(docker('push', `${host}/shared/base`), /denied|unauthorized/i)
    assertNoSecrets([registry.log()], PASSWORDS)
  } finally {
    await close()
  }
})

test('podman and skopeo log in, push, pull, list and delete', async (t) => {
  if (!requires(t, 'root', 'podman', 'skopeo')) return
  const place = thisMachine(t)
  const registry = await startRegistry(t, place.folder)
  const { host } = registry
  const authFile = join(place.folder, 'auth.json')
  const policy = join(place.folder, 'policy.json')
  writeFileSync(policy, '{"default": [{"type": "insecureAcceptAnything"}]}')
  const env = { REGISTRY_AUTH_FILE: authFile }
  const storage = ['--root', join(place.folder, 'p'), '--runroot', join(place.folder, 'r'), '--storage-driver', 'vfs']
  const run = async (...program: string[]): Promise<string> => {
    const { code, stdout, stderr } = await execute(program, { env: { ...process.env, ...env } })
    assert.equal(code, 0, `${program.join(' ')}: ${stderr}`)
    return stdout
  }
  const podman = (...args: string[]) => run('podman', ...storage, ...args)
  const login = (program: 'podman' | 'skopeo', password: string) =>
    withSecret(password, [program, 'login', '--tls-verify=false', '-u', 'ann', '--password-stdin', host], env)

  assert.notEqual((await login('podman', 'wrong')).code, 0)
  assert.equal((await login('podman', PASSWORDS.ann)).code, 0)
  const root = join(place.folder, 'root.tar')
  writeFileSync(join(place.folder, 'file'), 'content')
  await run('tar', '-cf', root, '-C', place.folder, 'file')
  await podman('import', '-q', root, `${host}/team/app:1`)
  await podman('push', '-q', '--tls-verify=false', `${host}/team/app:1`)
  await podman('image', 'rm', '-a', '-f')
  await podman('pull', '-q', '--tls-verify=false', '--signature-policy', policy, `${host}/team/app:1`)
  assert.match(await podman('search', '--tls-verify=false', `${host}/app`), /team\/app/)

  rmSync(authFile)
  assert.equal((await login('skopeo', PASSWORDS.ann)).code, 0)
  const copy = ['copy', '-q', '--src-tls-verify=false', '--dest-tls-verify=false']
  await run('skopeo', '--policy', policy, ...copy, `docker://${host}/team/app:1`, `docker://${host}/team/app:2`)
  const tags = await run('skopeo', 'list-tags', '--tls-verify=false', `docker://${host}/team/app`)
  assert.deepEqual((JSON.parse(tags) as { Tags: string[] }).Tags, ['1', '2'])
  await run('skopeo', 'delete', '--tls-verify=false', `docker://${host}/team/app:2`)
  await run('skopeo', 'logout', host)
  const refused = await execute(['skopeo', 'list-tags', '--tls-verify=false', `docker://${host}/team/app`], {
    env: { ...process.env, ...env },
  })
  assert.notEqual(refused.code, 0)
  assertNoSecrets([registry.log()], PASSWORDS)
})
