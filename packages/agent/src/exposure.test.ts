// Who reaches the admin API and the mirror endpoint, with real sockets and certificates.
import assert from 'node:assert/strict'
import { chmod, writeFile } from 'node:fs/promises'
import { request as requestPlain } from 'node:http'
import { request, type RequestOptions } from 'node:https'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { makeCertificates } from '@shoal/upstream/testing-certificates'
import { agentConfig, type AgentConfig } from './config.ts'
import { exposureMistakes } from './exposure.ts'
import { startAgent } from './testing/agents.ts'

const TOKEN = 'token-of-the-admin-api'
const keysFor = (more: Partial<AgentConfig>) =>
  exposureMistakes(agentConfig({ swarmKeyFiles: ['k'], ...more })).map(({ key }) => key)

function statusOf(url: string, tls: RequestOptions): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const asked = request(url, { ...tls, agent: false }, (answer) => {
      answer.resume().once('end', () => resolve(answer.statusCode))
    })
    asked.once('error', reject).end()
  })
}

describe('exposureMistakes', () => {
  it('has none for the defaults', () => assert.deepEqual(keysFor({}), []))

  it('names what everybody could use', () => {
    assert.deepEqual(keysFor({ adminHost: '0.0.0.0', mirrorHost: '::' }), ['adminHost', 'mirrorHost'])
    assert.deepEqual(keysFor({ adminHost: 'node-1', mirrorTlsCertFile: 'c', mirrorTlsKeyFile: 'k' }), ['adminHost'])
    assert.deepEqual(keysFor({ mirrorHost: '10.0.0.1', mirrorTlsCertFile: 'c', mirrorTlsKeyFile: 'k' }), ['mirrorHost'])
  })

  it('takes a token or client certificates for the admin API, client certificates for the mirror', () => {
    assert.deepEqual(keysFor({ adminHost: '0.0.0.0', adminTokenFile: 't' }), [])
    assert.deepEqual(keysFor({ adminHost: '0.0.0.0', adminTlsClientCaFile: 'ca' }), [])
    assert.deepEqual(keysFor({ mirrorHost: '0.0.0.0', mirrorTlsClientCaFile: 'ca' }), [])
  })
})

describe('an agent', () => {
  it('does not start on an address that anybody could use, and says what to do', async (t) => {
    await assert.rejects(startAgent(t, { adminHost: '0.0.0.0' }), /adminHost .*set adminTokenFile/)
    await assert.rejects(startAgent(t, { mirrorHost: '0.0.0.0' }), /mirrorHost .*mirrorTlsClientCaFile/)
  })

  it('answers on the loopback to names of its own machine only: no page gets in by a name that leads there', async (t) => {
    const { agent } = await startAgent(t)
    const asked = (url: string, host: string) =>
      new Promise<number | undefined>((resolve, reject) => {
        const asking = requestPlain(url, { headers: { host }, agent: false }, (answer) => {
          answer.resume().once('end', () => resolve(answer.statusCode))
        })
        asking.once('error', reject).end()
      })
    for (const url of [`${agent.urls.mirror}/v2/`, `${agent.urls.admin}/api/v1/status`]) {
      assert.equal(await asked(url, 'evil.example'), 403)
      assert.ok([200, 401].includes((await asked(url, 'localhost:7700')) ?? 0), 'answered, or asked for a login')
    }
  })

  it('asks for the token of its file below /api/, and tells probes without', async (t) => {
    const { folder } = await makeCertificates(t)
    const adminTokenFile = join(folder, 'token')
    await writeFile(adminTokenFile, TOKEN)
    await chmod(adminTokenFile, 0o644)
    await assert.rejects(startAgent(t, { adminTokenFile }), /chmod 600/)
    await chmod(adminTokenFile, 0o600)

    const { agent } = await startAgent(t, { adminHost: '0.0.0.0', adminTokenFile })
    const base = agent.urls.admin.replace('0.0.0.0', '127.0.0.1')
    const status = async (path: string, headers: Record<string, string> = {}, method: 'GET' | 'POST' = 'GET') => {
      const answer = await fetch(`${base}${path}`, { method, headers })
      await answer.arrayBuffer()
      return answer.status
    }
    assert.equal(await status('/healthz'), 200)
    assert.equal(await status('/metrics'), 200)
    assert.equal(await status('/api/v1/status'), 401)
    assert.equal(await status('/api/v1/pulls', {}, 'POST'), 401)
    assert.equal(await status('/api/v1/status', { authorization: `Bearer ${TOKEN}` }), 200)
  })

  it('shuts out who has no certificate of its authority, at both endpoints', async (t) => {
    const { folder, ca, client } = await makeCertificates(t)
    const at = (name: string) => join(folder, name)
    await chmod(at('server.key'), 0o600)
    const { agent } = await startAgent(t, {
      adminHost: '0.0.0.0',
      adminTlsCertFile: at('server.pem'),
      adminTlsKeyFile: at('server.key'),
      adminTlsClientCaFile: at('ca.pem'),
      mirrorHost: '0.0.0.0',
      mirrorTlsCertFile: at('server.pem'),
      mirrorTlsKeyFile: at('server.key'),
      mirrorTlsClientCaFile: at('ca.pem'),
    })
    for (const url of [`${agent.urls.admin}/api/v1/status`, `${agent.urls.mirror}/v2/?ns=registry.test`]) {
      assert.match(url, /^https:/)
      const reached = url.replace('0.0.0.0', '127.0.0.1')
      assert.equal(await statusOf(reached, { ca, ...client }), 200, url)
      await assert.rejects(statusOf(reached, { ca }), url)
    }
  })
})
