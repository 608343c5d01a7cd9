import assert from 'node:assert/strict'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { runCommand } from '../program.ts'

const HOSTS = 'etc/containerd/certs.d/_default/hosts.toml'
const DAEMON = 'etc/docker/daemon.json'
const REGISTRIES = 'etc/containers/registries.conf.d/50-shoal.conf'

interface Machine {
  root: string
  write: (path: string, text: string) => Promise<void>
  /** All files by path. */
  files: () => Promise<Record<string, string>>
  configure: (...args: string[]) => Promise<{ code: number; out: string; err: string }>
}

async function machine(t: TestContext): Promise<Machine> {
  const root = await mkdtemp(join(tmpdir(), 'shoal-configure-'))
  t.after(() => rm(root, { recursive: true }))
  return {
    root,
    async write(path, text) {
      await mkdir(dirname(join(root, path)), { recursive: true })
      await writeFile(join(root, path), text)
    },
    async files() {
      const found: Record<string, string> = {}
      for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
        const path = join(entry.parentPath, entry.name)
        if (!entry.isDirectory()) found[path.slice(root.length + 1)] = await readFile(path, 'utf8')
      }
      return found
    },
    async configure(...args) {
      const outcome = { code: 0, out: '', err: '' }
      const write = (to: 'out' | 'err') => (text: string) => void (outcome[to] += text)
      outcome.code = await runCommand(['configure', '--root', root, ...args], { out: write('out'), err: write('err') })
      return outcome
    },
  }
}

test('writes the files of all runtimes, shows them first, and removes them again', async (t) => {
  const { configure, files } = await machine(t)
  const all = ['containerd', 'docker', 'cri-o']
  const shown = await configure(...all, '--dry-run')
  assert.equal(shown.code, 0, shown.err)
  assert.deepEqual(await files(), {})
  assert.match(shown.out, /^\+\[host\."http:\/\/127\.0\.0\.1:7700"\]$/m)
  assert.match(shown.out, /^\+ {2}"registry-mirrors": \[$/m)

  assert.equal((await configure(...all)).code, 0)
  const written = await files()
  assert.deepEqual(Object.keys(written).toSorted(), [HOSTS, REGISTRIES, DAEMON, `${DAEMON}.before-shoal`].toSorted())
  assert.match(written[HOSTS] ?? '', /\[host\."http:\/\/127\.0\.0\.1:7700"\]\n {2}capabilities = \["pull", "resolve"\]/)
  assert.deepEqual(JSON.parse(written[DAEMON] ?? ''), { 'registry-mirrors': ['http://127.0.0.1:7700'] })
  assert.match(written[REGISTRIES] ?? '', /prefix = "ghcr.io"\nlocation = "ghcr.io"\n\[\[registry.mirror\]\]\nlocation/)
  assert.match(written[REGISTRIES] ?? '', /^location = "127.0.0.1:7700\/ghcr.io"\ninsecure = true$/m)

  const again = await configure(...all)
  assert.equal(again.out, 'containerd: nothing to change\ndocker: nothing to change\npodman: nothing to change\n')
  assert.match((await configure(...all, '--undo', '--dry-run')).out, /^\+\+\+ \/dev\/null$/m)
  assert.deepEqual(await files(), written)
  assert.equal((await configure(...all, '--undo')).code, 0)
  assert.deepEqual(await files(), {})
})

test("docker's other settings stay, and come back byte for byte", async (t) => {
  const { configure, files, write, root } = await machine(t)
  const before = '{\n\t"debug": true,\n\t"registry-mirrors": [ "https://old.example" ]\n}'
  await write(DAEMON, before)
  await chmod(join(root, DAEMON), 0o640)
  assert.equal((await configure('docker')).code, 0)
  const written = await files()
  assert.deepEqual(JSON.parse(written[DAEMON] ?? ''), {
    debug: true,
    'registry-mirrors': ['http://127.0.0.1:7700', 'https://old.example'],
  })
  assert.match(written[DAEMON] ?? '', /^\t"debug"/m)
  assert.equal(written[`${DAEMON}.before-shoal`], before)
  assert.equal((await stat(join(root, DAEMON))).mode & 0o777, 0o640)
  await configure('docker', '--undo')
  assert.deepEqual(await files(), { [DAEMON]: before })

  // What the administrator changed meanwhile is kept.
  await configure('docker')
  const changed = JSON.parse((await files())[DAEMON] ?? '') as Record<string, unknown>
  await write(DAEMON, JSON.stringify({ ...changed, debug: false }))
  await configure('docker', '--undo')
  const after = await files()
  assert.deepEqual(Object.keys(after), [DAEMON])
  assert.deepEqual(JSON.parse(after[DAEMON] ?? ''), { debug: false, 'registry-mirrors': ['https://old.example'] })
})

test("what is not Shoal's or cannot be read is left, and the others are done", async (t) => {
  const { configure, files, write } = await machine(t)
  await write(HOSTS, 'server = "https://example.com"\n')
  const before = await files()
  const refused = await configure('containerd', 'docker')
  assert.equal(refused.code, 1)
  assert.match(refused.err, /not Shoal's, so it is left as it is. Add to it:[^]*capabilities/)
  assert.match(refused.err, /^shoal: left as it was, for the reason above: containerd$/m)
  assert.match((await files())[DAEMON] ?? '', /7700/)
  assert.equal((await files())[HOSTS], before[HOSTS])
  assert.equal((await configure('docker', '--undo')).code, 0)
  assert.deepEqual(await files(), before)
  assert.match((await configure('containerd', '--undo')).err, /was not written by Shoal/)
  assert.deepEqual(await files(), before)
  for (const text of ['{ "debug": true,, }', '[]', '{"registry-mirrors": "x"}']) {
    await write(DAEMON, text)
    const { code, err } = await configure('docker')
    assert.deepEqual([code, /left as it is/.test(err), (await files())[DAEMON]], [1, true, text])
  }
})

test('a link stays a link; other mirrors and registries; wrong words', async (t) => {
  const { configure, files, write, root } = await machine(t)
  await write('real.json', '{}')
  await mkdir(join(root, 'etc/docker'), { recursive: true })
  await symlink(join(root, 'real.json'), join(root, DAEMON))
  await configure('docker', '--mirror', 'http://127.0.0.1:7777')
  assert.match((await files())['real.json'] ?? '', /7777/)
  await configure('podman', '--registry', 'a.example', '--registry', 'b.example:5000')
  const prefixes = ((await files())[REGISTRIES] ?? '').match(/^prefix = .*$/gm)
  assert.deepEqual(prefixes, ['prefix = "a.example"', 'prefix = "b.example:5000"'])
  for (const args of [['rkt'], ['docker', '--mirror', 'ftp://x'], ['podman', '--registry', 'a/b']]) {
    assert.equal((await configure(...args)).code, 2, args.join(' '))
  }
})

test('what is undone with another mirror than it was done with keeps its backup, and says so', async (t) => {
  const { configure, files, write } = await machine(t)
  const before = '{ "registry-mirrors": ["https://old.example"] }'
  await write(DAEMON, before)
  const elsewhere = ['--mirror', 'http://127.0.0.1:7800']
  await configure('docker', ...elsewhere)
  const written = await files()
  const { code, out, err } = await configure('docker', '--undo')
  assert.deepEqual({ code, out }, { code: 0, out: 'docker: nothing to change\n' })
  assert.match(err, /names no mirror http:\/\/127\.0\.0\.1:7700; was another --mirror used\?/)
  assert.deepEqual(await files(), written)
  await configure('docker', '--undo', ...elsewhere)
  assert.deepEqual(await files(), { [DAEMON]: before })

  // Taken out by hand: nothing of Shoal's is left for which the backup would be needed.
  await configure('docker')
  await write(DAEMON, '{ "debug": true, "registry-mirrors": ["https://old.example"] }')
  assert.equal((await configure('docker', '--undo')).err, '')
  assert.deepEqual(Object.keys(await files()), [DAEMON])
})

test("another mirror takes the place of the one before, and of nobody else's", async (t) => {
  const { configure, files, write } = await machine(t)
  const mirrors = async (): Promise<unknown> =>
    (JSON.parse((await files())[DAEMON] ?? '') as Record<string, unknown>)['registry-mirrors']
  const [first, second] = ['http://127.0.0.1:7800', 'http://127.0.0.1:7900']
  await configure('docker', '--mirror', first)
  await configure('docker', '--mirror', second)
  assert.deepEqual(await mirrors(), [second])
  await configure('docker', '--undo', '--mirror', second)
  assert.deepEqual(await files(), {})

  const before = '{ "registry-mirrors": ["https://old.example"] }'
  await write(DAEMON, before)
  await configure('docker', '--mirror', first)
  await configure('docker', '--mirror', second)
  assert.deepEqual(await mirrors(), [second, 'https://old.example'])
  await configure('docker', '--undo', '--mirror', second)
  assert.deepEqual(await files(), { [DAEMON]: before })

  // Added since, by whom can only be guessed: then nothing goes.
  await configure('docker', '--mirror', first)
  await write(DAEMON, JSON.stringify({ 'registry-mirrors': [first, 'https://new.example', 'https://old.example'] }))
  const { err } = await configure('docker', '--mirror', second)
  assert.match(err, /has http:\/\/127\.0\.0\.1:7800, https:\/\/new\.example, which were not there before Shoal/)
  assert.deepEqual(await mirrors(), [second, first, 'https://new.example', 'https://old.example'])
})

test('a mirror with TLS: whose authority is named, or how it can be', async (t) => {
  const { configure, files } = await machine(t)
  const tls = ['--mirror', 'https://mirror.example:7700']
  const all = ['containerd', 'docker', 'podman']
  const { err } = await configure(...all, ...tls)
  assert.match(err, /^containerd: if an authority of your own signed .*: name its file with --ca/m)
  assert.match(err, /^docker: .*: put it at \/etc\/docker\/certs\.d\/mirror\.example:7700\/ca\.crt$/m)
  assert.match(err, /^podman: .*: put it at \/etc\/containers\/certs\.d\/mirror\.example:7700\/ca\.crt$/m)
  assert.doesNotMatch((await configure(...all)).err, /authority/)
  const named = await configure('containerd', ...tls, '--ca', '/etc/shoal/ca.pem')
  assert.doesNotMatch(named.err, /authority/)
  assert.match((await files())[HOSTS] ?? '', /^ {2}ca = "\/etc\/shoal\/ca\.pem"$/m)
  assert.equal((await configure('containerd', '--ca', '/etc/shoal/ca.pem')).code, 2)
  assert.equal((await configure('containerd', ...tls, '--ca', 'ca.pem')).code, 2)
})

test('a runtime that is named twice is done once', async (t) => {
  const { configure, files } = await machine(t)
  assert.equal((await configure('podman', 'cri-o', 'docker', 'docker')).code, 0)
  const { code, out, err } = await configure('podman', 'cri-o', 'docker', 'docker', '--undo')
  assert.equal(code, 0, err)
  assert.equal(out.match(/^podman: /gm)?.length, 1)
  assert.deepEqual(await files(), {})
})
