// What would keep a daemon from running is found before it starts, by `--check` and by the daemon itself.
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { generateSwarmKey } from '@shoal/network/swarm-key'
import { makeCertificates } from '@shoal/upstream/testing-certificates'
import { runCommand } from '../program.ts'

let directory = ''
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'shoal-mistakes-'))
  await writeFile(join(directory, 'key'), generateSwarmKey(), { mode: 0o600 })
  await writeFile(join(directory, 'open'), generateSwarmKey(), { mode: 0o644 })
  await writeFile(join(directory, 'garbage'), 'no key\n', { mode: 0o600 })
})
after(() => rm(directory, { recursive: true }))

async function run(args: string[]): Promise<{ code: number; out: string; err: string }> {
  const told = { out: '', err: '' }
  const code = await runCommand(args, { out: (text) => (told.out += text), err: (text) => (told.err += text) })
  return { code, ...told }
}

/** What a daemon says of such a file: its lines without the name of the file, the same with and without `--check`. */
async function refusal(daemon: string, config: Record<string, unknown>): Promise<string[]> {
  const file = join(directory, 'daemon.yaml')
  const dataDirectory = join(directory, 'data')
  // One line for each key, in their order.
  const given = Object.entries({ dataDirectory, ...config }).map(([key, value]) => `${key}: ${JSON.stringify(value)}\n`)
  await writeFile(file, given.join(''))
  const [check, daemonItself] = [
    await run([daemon, '--config', file, '--check']),
    await run([daemon, '--config', file]),
  ]
  assert.equal(check.code, 2, check.out)
  assert.deepEqual(daemonItself, check)
  assert.doesNotMatch(check.err, /\n {4}at /, 'no stack')
  return check.err.trim().replaceAll(`shoal: ${file}:`, '').replaceAll(`${directory}/`, '').split('\n')
}

/** The keys of lines such as `2:17: swarmKeyFiles[0] cannot …`, each with its line. */
function keysOf(lines: string[]): string[] {
  return lines.map((line) => line.replace(/^(\d+):\d+: (\S+) .*$/, '$1 $2'))
}

describe('mistakes of an agent', () => {
  it('are the files that it cannot use, each by its key and place', async () => {
    const lines = await refusal('agent', {
      swarmKeyFiles: ['key', 'none', 'open', 'garbage'],
      mirrorTlsCertFile: 'none',
      mirrorTlsKeyFile: 'key',
      adminTokenFile: 'garbage',
      adminTlsCertFile: 'garbage',
      adminTlsKeyFile: 'key',
      registries: { 'a.io': { caFile: 'none' }, 'b.io': { certFile: 'none', keyFile: 'none' } },
    })
    assert.deepEqual(keysOf(lines), [
      '2 swarmKeyFiles[1]',
      '2 swarmKeyFiles[2]',
      '2 swarmKeyFiles[3]',
      '3 mirrorTlsCertFile',
      '5 adminTokenFile',
      '6 adminTlsCertFile',
      '8 registries."a.io".caFile',
      '8 registries."b.io".certFile',
    ])
    assert.match(lines[0] ?? '', /none: ENOENT/)
    assert.match(lines[1] ?? '', /mode 644.*chmod 600/)
  })

  it('are ports that two servers would have', async () => {
    const ports = { mirrorPort: 7000, adminPort: 7000, p2pPort: 7001, transferPort: 7001 }
    const lines = await refusal('agent', { swarmKeyFiles: ['key'], ...ports })
    assert.deepEqual(keysOf(lines), ['4 adminPort', '6 transferPort'])
    assert.match(lines[1] ?? '', /is 7001, and so is p2pPort/)
    // On addresses of their own they may; 0 takes a free one.
    const file = join(directory, 'ports.yaml')
    const right = { mirrorPort: 7000, adminHost: '127.0.0.2', adminPort: 7000, p2pPort: 0, transferPort: 0 }
    await writeFile(file, JSON.stringify({ swarmKeyFiles: ['key'], ...right }))
    assert.deepEqual(await run(['agent', '--config', file, '--check']), {
      ...{ code: 0, out: 'The configuration is fine.\n', err: '' },
    })
  })

  it('are named beside those of other keys, and not where their own keys are wrong', async () => {
    const lines = await refusal('agent', {
      swarmKeyFiles: ['none'],
      zone: 5,
      adminHost: '0.0.0.0',
      mirrorHost: '0.0.0.0',
      adminTokenFile: 5,
      trackers: ['tracker:99999'],
    })
    assert.deepEqual(keysOf(lines), ['2 swarmKeyFiles[0]', '3 zone', '6 adminTokenFile', '7 trackers[0]'])
  })

  it('do not show passwords or keys', async () => {
    const key = generateSwarmKey()
    const secret = key.slice('shoal-swarm-key-v1:'.length).slice(0, 20)
    const entry = await refusal('agent', {
      swarmKeyFiles: [key],
      registries: { 'a.io': { endpoint: 'https://u:hunter7@x/y' } },
    })
    assert.match(entry[0] ?? '', /swarmKeyFiles\[0\] .*name the file that holds the key/)
    assert.match(entry[1] ?? '', /registries\."a\.io"\.endpoint must not hold credentials/)
    const text = await refusal('agent', { swarmKeyFiles: key, zone: key })
    assert.deepEqual(keysOf(text), ['2 swarmKeyFiles', '3 zone'])
    for (const line of [...entry, ...text]) assert.ok(!line.includes(secret) && !line.includes('hunter7'), line)
  })
})

describe('mistakes of a tracker', () => {
  it('are its files and ports', async () => {
    const access = { httpTokenFile: 'none', httpTlsCertFile: 'none', httpTlsKeyFile: 'key' }
    const lines = await refusal('tracker', { swarmKeyFiles: ['open'], ...access, p2pPort: 7000, httpPort: 7000 })
    assert.deepEqual(keysOf(lines), ['2 swarmKeyFiles[0]', '3 httpTokenFile', '4 httpTlsCertFile', '7 httpPort'])
  })
})

describe('mistakes of a registry', () => {
  it('are the files that it cannot use, each by its key and place', async () => {
    const lines = await refusal('registry', {
      tlsCertFile: 'garbage',
      tlsKeyFile: 'none',
      htpasswdFile: 'none',
      tokenKeyFile: 'garbage',
      replication: [{ url: 'https://a.b' }, { url: 'https://127.0.0.1:1', caFile: 'none' }],
      places: { a: { bucket: 'b', repositories: ['x'], credentialsFile: 'none' } },
    })
    assert.deepEqual(keysOf(lines), [
      '3 tlsKeyFile',
      '4 htpasswdFile',
      '5 tokenKeyFile',
      '6 replication[1].caFile',
      '7 places.a.credentialsFile',
    ])
    assert.match(lines[1] ?? '', /shoal registry user add/)
  })

  it('are a certificate and a key that do not fit', async (t) => {
    const { server, client } = await makeCertificates(t)
    await writeFile(join(directory, 'cert.pem'), server.cert)
    await writeFile(join(directory, 'key.pem'), client.key)
    const lines = await refusal('registry', { tlsCertFile: 'cert.pem', tlsKeyFile: 'key.pem' })
    assert.match(lines.join(), /tlsCertFile cannot be used: The certificate cert\.pem and the key key\.pem do not work/)
  })

  it('do not show passwords', async () => {
    const url = 'https://u:hun/ter7@x/y'
    const lines = await refusal('registry', {
      publicUrl: url,
      corsOrigins: [url],
      notifications: [{ url }],
      replication: [{ url }],
      places: { a: { bucket: 'b', repositories: ['x'], endpoint: url } },
    })
    assert.equal(lines.length, 5)
    for (const line of lines) assert.match(line, /, not "https:\/\/…@x\/y"$/)
    assert.doesNotMatch(lines.join(), /hun|ter7/)
  })
})
