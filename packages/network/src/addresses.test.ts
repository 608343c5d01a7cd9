import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { advertisedHost, dialable, hostPort, parseEndpoint, resolveEndpoint } from './addresses.ts'
import { createIdentity } from './identity.ts'
import { patience } from './testing/planes.ts'

suite('addresses', () => {
  test('are read as people write them', async () => {
    const { peerId } = await createIdentity()
    const cases: [string, { host: string; port: number; peerId: string }][] = [
      ['tracker:7710', { host: 'tracker', port: 7710, peerId: '' }],
      ['10.0.0.7:1', { host: '10.0.0.7', port: 1, peerId: '' }],
      ['[fd00::1]:7710', { host: 'fd00::1', port: 7710, peerId: '' }],
      ['/ip4/10.0.0.7/tcp/7710', { host: '10.0.0.7', port: 7710, peerId: '' }],
      ['/ip6/::1/tcp/7710', { host: '::1', port: 7710, peerId: '' }],
      [`/dns4/tracker.example/tcp/7710/p2p/${peerId}`, { host: 'tracker.example', port: 7710, peerId }],
    ]
    for (const [text, endpoint] of cases) assert.deepEqual(parseEndpoint(text), endpoint)
  })

  test('nonsense is refused with what is expected', () => {
    const bad = [
      '',
      'tracker',
      'tracker:',
      ':7710',
      'tracker:0',
      'tracker:65536',
      'http://tracker:7710',
      'fd00::1:7710',
    ]
    for (const text of [
      ...bad,
      '[tracker]:7710',
      '/ip4/10.0.0.7',
      '/ip4/10.0.0.7/udp/7710',
      '/ip4/300.0.0.1/tcp/1',
      '/x',
    ]) {
      assert.throws(() => parseEndpoint(text), {
        name: 'NetworkError',
        code: 'BAD_ADDRESS',
        message: /expected host:port/,
      })
    }
  })

  test('of what a peer says only what can be dialled is taken, and not too much of it', async () => {
    const [peer, other] = await Promise.all([createIdentity(), createIdentity()])
    const multiaddrs = [
      '/ip4/10.0.0.1/tcp/1',
      `/ip4/10.0.0.2/tcp/1/p2p/${peer.peerId}`,
      `/ip4/10.0.0.3/tcp/1/p2p/${other.peerId}`,
      '/ip4/10.0.0.4/udp/1/quic-v1',
      'nonsense',
      ...Array.from({ length: 50 }, (_, index) => `/ip4/10.0.1.${index}/tcp/1`),
    ]
    const found = dialable({ peerId: peer.peerId, multiaddrs, transfer: '', zone: '' }).map(String)
    assert.equal(found.length, 8)
    assert.deepEqual(found.slice(0, 2), [
      `/ip4/10.0.0.1/tcp/1/p2p/${peer.peerId}`,
      `/ip4/10.0.0.2/tcp/1/p2p/${peer.peerId}`,
    ])
  })

  test('names are resolved, and what has no name is unreachable', async () => {
    const found = (await resolveEndpoint(parseEndpoint('localhost:7710'), patience())).map(String)
    assert.ok(found.includes('/ip4/127.0.0.1/tcp/7710') || found.includes('/ip6/::1/tcp/7710'), found.join())
    const nowhere = parseEndpoint('nowhere.invalid:7710')
    await assert.rejects(resolveEndpoint(nowhere, patience()), { code: 'UNREACHABLE' })
  })

  test('a node tells others an address that is not a wildcard', () => {
    assert.equal(advertisedHost('10.0.0.7'), '10.0.0.7')
    for (const host of ['0.0.0.0', '::', '']) assert.ok(!['0.0.0.0', '::', ''].includes(advertisedHost(host)))
    assert.equal(hostPort('fd00::1', 7702), '[fd00::1]:7702')
    assert.equal(hostPort('10.0.0.7', 7702), '10.0.0.7:7702')
  })
})
