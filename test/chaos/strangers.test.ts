// Who lacks the swarm key gets no byte and learns no digest: an agent with another key, and bare connections to both
// planes of a member that is full of content.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { withLab, type PushedImage } from '../lab/lab.ts'
import { MiB } from '../support/images.ts'
import { requires } from '../support/requirements.ts'
import { until } from '../support/until.ts'
import { writeSwarmKey } from '../support/shoal.ts'

/** Every digest of the image, in the forms in which it could be on a wire. */
function tracesOf(image: PushedImage): Buffer[] {
  assert.ok('blobs' in image.content)
  const digests = [image.digest, ...image.content.blobs.map(({ digest }) => digest)]
  return digests.flatMap((digest) => {
    const hex = digest.slice('sha256:'.length)
    return [Buffer.from(hex, 'hex'), Buffer.from(hex)]
  })
}

test('a node with another swarm key gets nothing out of a cluster', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  const STRANGER = 2
  const folder = mkdtempSync(join(tmpdir(), 'shoal-stranger-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const strangeKey = writeSwarmKey(join(folder, 'swarm.key'))
  for (const tracker of [true, false]) {
    await t.test(tracker ? 'with a tracker' : 'through the DHT alone', async () => {
      const agentConfig = (index: number) => ({
        manifestTimeout: '3s',
        ...(index === STRANGER ? { swarmKeyFiles: [strangeKey] } : {}),
      })
      await withLab(`stranger ${tracker}`, { agents: 3, tracker, agentConfig }, async (lab) => {
        const [member, other, stranger] = [lab.agent(0), lab.agent(1), lab.agent(STRANGER)]
        // What a node looked up before it knew its tracker, the tracker cannot tell when the origin is gone.
        const atTracker = async (): Promise<string> =>
          (await lab.tracker?.probe.get('http://127.0.0.1:7711/api/v1/nodes'))?.text ?? ''
        const areKnown = async (): Promise<boolean> => {
          const nodes = await atTracker()
          return [member, other].every(({ address }) => nodes.includes(address))
        }
        if (lab.tracker) await until(areKnown, { what: 'the members at the tracker' })
        const image = await lab.pushImage({ layers: [4 * MiB] })
        await member.pull(image)
        await lab.origin.stop()

        // The member's peer gets it, so it is there to be had.
        const shared = await other.pull(image, { byDigest: true })
        assert.ok(shared.blobs.every(({ verified }) => verified))
        const sent = (await member.sent()) + (await other.sent())

        await assert.rejects(stranger.pull(image, { byDigest: true }))
        await assert.rejects(stranger.pull(image))
        const layer = 'blobs' in image.content ? image.content.blobs[1]?.digest : undefined
        const blob = await stranger.probe.get(
          `http://127.0.0.1:7700/v2/${image.repository}/blobs/${layer}?ns=${lab.origin.host}`,
          { idleLimitMs: 60_000 },
        )
        assert.ok(blob.status >= 400, `the stranger was given a layer: ${blob.status}`)
        assert.equal(await stranger.received('peer'), 0)
        assert.equal(await stranger.metric('shoal_peers_connected'), 0)
        assert.equal((await member.sent()) + (await other.sent()), sent)
        if (lab.tracker) {
          assert.ok(!(await atTracker()).includes(stranger.address), 'the stranger is among the nodes of the tracker')
        }
      })
    })
  }
})

/** Says things to a port and prints, in hex, all that comes back until the other side closes or a limit passes. */
const KNOCK = `
  const [host, port, mode, limitMs] = process.argv.slice(1)
  const net = require('node:net'), tls = require('node:tls')
  const frame = (text) => Buffer.concat([Buffer.from([text.length + 1]), Buffer.from(text + '\\n')])
  const socket = mode === 'tls'
    ? tls.connect({ host, port: Number(port), rejectUnauthorized: false, ALPNProtocols: ['shoal-transfer/1'] })
    : net.connect({ host, port: Number(port) })
  const heard = []
  const end = (how) => { console.log(JSON.stringify({ how, heard: Buffer.concat(heard).toString('hex') })); process.exit(0) }
  socket.on('data', (bytes) => heard.push(bytes))
  socket.on('error', (error) => end(error.code || error.message))
  socket.on('close', () => end('closed'))
  socket.on(mode === 'tls' ? 'secureConnect' : 'connect', () => {
    if (mode === 'http') socket.write('GET /v2/_catalog HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
    else if (mode === 'multistream') {
      socket.write(frame('/multistream/1.0.0'))
      for (const name of ['/noise', '/plaintext/2.0.0', '/tls/1.0.0', '/yamux/1.0.0', '/shoal/kad/1.0.0']) socket.write(frame(name))
    } else socket.write(Buffer.concat([Buffer.from([0, 0, 0, 64]), Buffer.alloc(64, 1)]))
  })
  setTimeout(() => end('open'), Number(limitMs))`

test('bare connections to the planes of a member learn nothing, and are closed', async (t) => {
  if (!requires(t, 'namespaces', 'docker-registry')) return
  await withLab('knocking', { agents: 2 }, async (lab) => {
    const image = await lab.pushImage({ layers: [4 * MiB] })
    await lab.agent(0).pull(image)
    await lab.agent(1).pull(image)
    const sent = await lab.agent(0).sent()
    const traces = tracesOf(image)
    for (const [port, mode] of [
      ['7701', 'multistream'],
      ['7701', 'http'],
      ['7701', 'raw'],
      ['7702', 'tls'],
      ['7702', 'http'],
      ['7702', 'raw'],
    ] as const) {
      const knock = [process.execPath, '-e', KNOCK, lab.agent(0).address, port, mode, '30000']
      const { stdout, stderr } = await lab.client().exec(knock)
      const { how, heard } = JSON.parse(stdout || `{"how":${JSON.stringify(stderr)},"heard":""}`) as Record<
        string,
        string
      >
      t.diagnostic(`${port} ${mode}: ${how}, ${(heard?.length ?? 0) / 2} bytes heard`)
      assert.notEqual(how, 'open', `${port} keeps a connection that says ${mode} for more than 30 s`)
      assert.notEqual(how, 'ECONNREFUSED', `nothing listens on ${port}`)
      const bytes = Buffer.from(heard ?? '', 'hex')
      for (const trace of traces) assert.equal(bytes.indexOf(trace), -1, `${port} ${mode}: a digest was heard`)
      if (mode === 'tls') assert.match(how ?? '', /closed|ECONNRESET/, 'the knock did not get as far as TLS')
      assert.ok(bytes.length < 2048, `${port} ${mode}: ${bytes.length} bytes for a stranger`)
    }
    assert.equal(await lab.agent(0).sent(), sent)
    // The ports that hand out content and numbers are not for the network.
    for (const port of ['7700', '7703']) {
      const knock = [process.execPath, '-e', KNOCK, lab.agent(0).address, port, 'http', '5000']
      assert.match((await lab.client().exec(knock)).stdout, /ECONNREFUSED/)
    }
  })
})
