// The real command in a process of its own: exit codes, files, and what reaches which stream.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, open, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { after, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parseSwarmKeys } from '@shoal/network'
import { VERSION } from './version.ts'

const COMMAND = fileURLToPath(new URL('../bin/shoal.ts', import.meta.url))
const LAUNCHER = fileURLToPath(new URL('../bin/shoal', import.meta.url))

interface Outcome {
  code: number
  out: string
  err: string
}

function run(file: string, args: string[], environment: Record<string, string> = {}): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = execFile(file, args, { env: { ...process.env, ...environment } }, (error, out, err) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : error ? -1 : 0, out, err })
    })
    child.stdin?.end()
  })
}

const shoal = (args: string[], environment?: Record<string, string>) =>
  run(process.execPath, ['--disable-warning=ExperimentalWarning', COMMAND, ...args], environment)

let directory = ''
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'shoal-command-'))
})
after(() => rm(directory, { recursive: true }))

describe('shoal', { concurrency: 2 }, () => {
  it('prints its version and ends with 0', async () => {
    const { code, out } = await shoal(['version'])
    assert.equal(code, 0)
    assert.match(out, new RegExp(`^shoal ${VERSION.replaceAll('.', '\\.')} \\(node `))
    assert.deepEqual(await shoal(['--version']), { code: 0, out: `${VERSION}\n`, err: '' })
  })

  it('explains itself with 0', async () => {
    const { code, out } = await shoal(['--help'])
    assert.equal(code, 0)
    for (const word of [
      'agent',
      'tracker',
      'registry',
      'status',
      'pull',
      'image',
      'configure',
      'doctor',
      'demo',
      'key',
    ])
      assert.match(out, new RegExp(`^  ${word}`, 'm'))
  })

  it('collects the garbage of a registry, or tells what it would collect', async () => {
    const data = join(directory, 'registry')
    const hex = 'ab'.padEnd(64, '0')
    const blob = join(data, 'blobs/sha256/ab', `sha256-${hex}`)
    await mkdir(dirname(blob), { recursive: true })
    await writeFile(blob, 'nobody names this')
    await utimes(blob, 1, 1)
    const config = join(directory, 'registry.yaml')
    await writeFile(config, `dataDirectory: ${data}\n`)
    const dry = await shoal(['registry', 'gc', '--config', config, '--dry-run'])
    assert.equal(dry.code, 0, dry.err)
    assert.match(dry.out, /would be freed\ndefault .* 1 +17 B\n/)
    assert.ok(await stat(blob))
    const [report] = JSON.parse((await shoal(['registry', 'gc', '--config', config, '--json'])).out) as {
      blobs: number
    }[]
    assert.equal(report?.blobs, 1)
    await assert.rejects(stat(blob), { code: 'ENOENT' })
  })

  it('makes no registry where there is none to collect in', async () => {
    const nowhere = join(directory, 'mistyped')
    const config = join(directory, 'mistyped.yaml')
    await writeFile(config, `dataDirectory: ${nowhere}\n`)
    const { code, out, err } = await shoal(['registry', 'gc', '--config', config, '--dry-run'])
    assert.deepEqual({ code, out }, { code: 1, out: '' })
    assert.match(err, /mistyped holds no registry/)
    await assert.rejects(stat(nowhere), { code: 'ENOENT' })
  })

  it('lists every key of a daemon as a flag', async () => {
    const { code, out } = await shoal(['agent', '--help'])
    assert.equal(code, 0)
    for (const flag of ['--config', '--mirror-port', '--swarm-key-files', '--log-level'])
      assert.ok(out.includes(`${flag} `), flag)
  })

  it('shows the help of the command that all words name', async () => {
    for (const words of [['image', 'save'], ['image'], ['registry', 'gc'], ['agent']]) {
      const { code, out } = await shoal(['help', ...words])
      assert.deepEqual([code, out], [0, (await shoal([...words, '--help'])).out], words.join(' '))
      assert.match(out, new RegExp(`^Usage: shoal ${words.join(' ')} `))
    }
    assert.equal((await shoal(['help', 'imge'])).code, 2)
  })

  it('takes the flag of a boolean with and without its value, and shows its default once', async () => {
    assert.match(
      (await shoal(['registry', '--help'])).out,
      /--remove-untagged \[boolean\] [^(]*[^]*?\(default: false\)$/m,
    )
    assert.doesNotMatch((await shoal(['registry', '--help'])).out, /preset/)
    for (const [value, code] of [
      [[], 0],
      [['false'], 0],
      [['maybe'], 2],
    ] as const) {
      const data = ['--data-directory', join(directory, 'unused')]
      assert.equal((await shoal(['registry', ...data, '--check', '--remove-untagged', ...value])).code, code, value[0])
    }
  })

  const misused: [string, string[], RegExp][] = [
    ['an unknown command', ['pul'], /unknown command 'pul'/],
    ['an unknown flag', ['agent', '--mirror-prt', '1'], /--mirror-port/],
    ['a flag without its value', ['tracker', '--config'], /argument missing/],
    ['no image', ['pull'], /missing required argument 'image'/],
    ['no image reference', ['pull', 'Not An Image'], /invalid image reference/],
    ['no platform', ['pull', 'alpine', '--platform', 'linux'], /invalid platform/],
    ['no URL', ['status', '--admin', 'localhost:7703'], /no URL of an admin API/],
    ['no size', ['demo', '--image', 'big'], /--image must be a size/],
    ['too many agents', ['demo', '--agents', '65'], /1 to 64/],
    ['no swarm key', ['agent'], /swarmKeyFiles is missing/],
    [
      'an address that anybody could use',
      ['agent', '--swarm-key-files', 'k', '--admin-host', '0.0.0.0', '--check'],
      /adminHost 0\.0\.0\.0 can be reached .*set adminTokenFile/,
    ],
    [
      'an address that no node can have',
      ['agent', '--swarm-key-files', 'k', '--trackers', 'tracker:99999', '--check'],
      /--trackers: trackers\[0\] "tracker:99999" is no address of a node/,
    ],
    [
      'another multiaddr',
      ['tracker', '--swarm-key-files', 'k', '--bootstrap-peers', '/foo/bar', '--check'],
      /"\/foo\/bar"/,
    ],
    [
      'a host in brackets',
      ['tracker', '--swarm-key-files', 'k', '--http-host', '[::1]', '--check'],
      /httpHost must be/,
    ],
    ['a token file that others may read', ['status', '--token-file', '/etc/passwd'], /mode 644: others may read/],
    ['no such file', ['agent', '--config', '/nonexistent/agent.yaml'], /agent\.yaml: .*no such file/],
  ]
  for (const [name, args, message] of misused) {
    it(`ends with 2 for ${name}`, async () => {
      const { code, out, err } = await shoal(args)
      assert.deepEqual({ code, out }, { code: 2, out: '' })
      assert.match(err, message)
      assert.doesNotMatch(err, /\n {4}at /, 'no stack')
    })
  }

  it('names every mistake of a file by place, and ends with 2', async () => {
    const file = join(directory, 'wrong.yaml')
    await writeFile(file, 'mirorPort: 1\nswarmKeyFiles: [k]\nzone: 5\n')
    const { code, err } = await shoal(['agent', '--config', file])
    assert.equal(code, 2)
    assert.deepEqual(
      err
        .trim()
        .split('\n')
        .map((line) => line.slice(0, `shoal: ${file}:1:1`.length)),
      [`shoal: ${file}:1:1`, `shoal: ${file}:2:1`, `shoal: ${file}:3:7`],
    )
  })

  it('ends `registry gc` with one line where a bucket cannot be reached', async () => {
    const config = join(directory, 'bucket.yaml')
    const credentials = join(directory, 'credentials')
    await writeFile(credentials, '[other]\naws_access_key_id = a\naws_secret_access_key = b\n')
    const place = { repositories: ['x/**'], bucket: 'b', endpoint: 'http://127.0.0.1:1', credentialsFile: credentials }
    const environment = { AWS_CONFIG_FILE: '/nonexistent', AWS_MAX_ATTEMPTS: '1' }
    const told = async (profile: string): Promise<string> => {
      const places = { a: { ...place, profile } }
      await writeFile(config, JSON.stringify({ dataDirectory: join(directory, 'bucket'), places }))
      await mkdir(join(directory, 'bucket'), { recursive: true })
      const { code, err } = await shoal(['registry', 'gc', '--config', config], environment)
      assert.equal(code, 1)
      assert.equal(err.trim().split('\n').length, 1, err)
      return err
    }
    assert.match(await told('other'), /^shoal: places\.a: .*object store does not answer.*ECONNREFUSED/)
    assert.ok((await told('none')).startsWith(`shoal: places.a.credentialsFile ${credentials}: `))
  })

  const contradictions: [string, string, string][] = [
    ['places: {a: {repositories: [x]}}', 'places', 'must give a either a directory or a bucket'],
    ['defaultPlace: nope', 'defaultPlace', 'names nope, which is not among places'],
    [
      'places: {a: {directory: d, repositories: [x]}, b: {directory: d, repositories: [y]}}',
      'places',
      'twice, as a and b',
    ],
    ['notifications: [{url: "http://a.b"}, {url: "http://a.b"}]', 'notifications', 'a url twice'],
    ['replication: [{url: "https://a.b"}, {url: "https://a.b"}]', 'replication', 'two rules called a.b'],
  ]
  for (const [at, [yaml, key, message]] of contradictions.entries()) {
    it(`ends with 2 for a registry with ${yaml}`, async () => {
      const file = join(directory, `contradiction-${at}.yaml`)
      await writeFile(file, `${yaml}\n`)
      for (const words of [['--check'], []]) {
        const { code, err } = await shoal(['registry', '--config', file, ...words])
        assert.equal(code, 2, err)
        assert.ok(err.startsWith(`shoal: ${file}:1:`) && err.includes(`: ${key} `) && err.includes(message), err)
      }
    })
  }

  it('takes an empty variable for one that is not given', async () => {
    const { code, err } = await shoal(['status'], { SHOAL_ADMIN_URL: '', SHOAL_TOKEN_FILE: '' })
    assert.equal(code, 1)
    assert.match(err, /no agent answers at http:\/\/127\.0\.0\.1:7703/)
  })

  it('checks a configuration without running it', async () => {
    const file = join(directory, 'right.yaml')
    assert.equal((await shoal(['key', 'new', '--out', join(directory, 'right.key')])).code, 0)
    await writeFile(file, 'swarmKeyFiles: [right.key]\n')
    const { code, out, err } = await shoal(['tracker', '--check'], { SHOAL_CONFIG: file, SHOAL_P2P_PROT: '1' })
    assert.deepEqual({ code, out }, { code: 0, out: 'The configuration is fine.\n' })
    assert.match(err, /SHOAL_P2P_PROT .*did you mean SHOAL_P2P_PORT/)
  })

  it('ends with 1 where its output cannot be written, after the work is done', async () => {
    const full = await open('/dev/full', 'w')
    try {
      for (const args of [
        ['key', 'new'],
        ['configure', 'containerd', 'cri-o', '--root', join(directory, 'root')],
      ]) {
        const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', COMMAND, ...args], {
          stdio: ['ignore', full.fd, 'pipe'],
        })
        const ended = once(child, 'close')
        assert.ok(child.stderr)
        const err = await text(child.stderr)
        assert.deepEqual([(await ended)[0], err.match(/^shoal: .*$/gm)?.length], [1, 1], err)
        assert.match(err, /^shoal: standard output cannot be written: ENOSPC/m)
        assert.doesNotMatch(err, /\n {4}at /, 'no stack')
      }
    } finally {
      await full.close()
    }
    await stat(join(directory, 'root/etc/containerd/certs.d/_default/hosts.toml'))
    await stat(join(directory, 'root/etc/containers/registries.conf.d/50-shoal.conf'))
  })

  it('ends with 1 when no agent answers', async () => {
    const { code, err } = await shoal(['status', '--admin', 'http://127.0.0.1:1'])
    assert.equal(code, 1)
    assert.match(err, /no agent answers at http:\/\/127\.0\.0\.1:1 \(ECONNREFUSED\): is "shoal agent" running\?/)
  })
})

describe('shoal key new', () => {
  it('prints a key that the network takes', async () => {
    const { code, out } = await shoal(['key', 'new'])
    assert.equal(code, 0)
    assert.equal(parseSwarmKeys(out, 'output').length, 1)
  })

  it('writes a file that only its owner can read, and never over another', async () => {
    const file = join(directory, 'swarm.key')
    assert.deepEqual((await shoal(['key', 'new', '--out', file])).code, 0)
    assert.equal((await stat(file)).mode & 0o777, 0o600)
    const before = await readFile(file, 'utf8')
    assert.equal(parseSwarmKeys(before, file).length, 1)

    const second = await shoal(['key', 'new', '--out', file])
    assert.equal(second.code, 1)
    assert.match(second.err, /exists and is left as it is/)
    assert.equal(await readFile(file, 'utf8'), before)
  })

  it('ends with 1 where it cannot write', async () => {
    const { code, err } = await shoal(['key', 'new', '--out', '/nonexistent/swarm.key'])
    assert.equal(code, 1)
    assert.match(err, /cannot be written/)
  })
})

describe('bin/shoal', () => {
  it('runs on the node that SHOAL_NODE names, through a symbolic link', async () => {
    const link = join(directory, 'shoal')
    await symlink(LAUNCHER, link)
    const { code, out } = await run(link, ['version'], { SHOAL_NODE: process.execPath })
    assert.equal(code, 0)
    assert.ok(out.includes(`node ${process.versions.node}`))
  })

  it('says what to do where node is too old', async () => {
    // A copy outside the checkout: no node among dependencies. The node of the PATH pretends to be old.
    const elsewhere = await mkdtemp(join(directory, 'old-'))
    const copy = join(elsewhere, 'shoal')
    await writeFile(copy, await readFile(LAUNCHER))
    await chmod(copy, 0o755)
    await writeFile(join(elsewhere, 'node'), '#!/bin/sh\n[ "$1" = --version ] && echo v20.1.0\nexit 1\n')
    await chmod(join(elsewhere, 'node'), 0o755)
    const { code, err } = await run(copy, ['version'], { PATH: `${elsewhere}:/usr/bin:/bin`, SHOAL_NODE: '' })
    assert.equal(code, 1)
    assert.match(err, /Node\.js 22\.18 or newer is needed, but node here is v20\.1\.0/)
  })
})
