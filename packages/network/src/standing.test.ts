import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { Registry } from 'prom-client'
import { Standing } from './standing.ts'
import { silent } from './testing/planes.ts'

function standing(): { standing: Standing; banned: string[]; metrics: Registry } {
  const banned: string[] = []
  const metrics = new Registry()
  const onBan = (peerId: string, reason: string): unknown => banned.push(`${peerId} ${reason}`)
  return { standing: new Standing({ logger: silent, metrics, onBan }), banned, metrics }
}

suite('standing of peers', () => {
  // Regression: a counter that begins with 1 is no increase, so an alert on it missed the first ban of each kind.
  test('every reason is a series before anybody is banned', async () => {
    const text = await standing().metrics.metrics()
    for (const reason of ['protocol', 'flood', 'slow_reader', 'wrong_bytes', 'wrong_size']) {
      assert.match(text, new RegExp(`^shoal_peers_banned_total\\{reason="${reason}"\\} 0$`, 'm'))
    }
  })

  test('one mistake is none; many are a ban, and metrics name the peer', async () => {
    const { standing: peers, banned, metrics } = standing()
    for (let count = 0; count < 4; count++) peers.offend('peer', 'protocol', 'protocol')
    peers.offend('other', 'protocol', 'protocol')
    assert.deepEqual(banned, [])
    peers.offend('peer', 'protocol', 'protocol')
    assert.deepEqual(banned, ['peer protocol'])
    assert.equal(peers.isBanned('peer'), true)
    assert.equal(peers.isBanned('other'), false)
    const text = await metrics.metrics()
    assert.match(text, /^shoal_peers_banned_total\{reason="protocol"\} 1$/m)
    assert.match(text, /^shoal_peer_ban_seconds\{peer="peer",reason="protocol"\} \d+/m)
    assert.match(text, /^shoal_peer_offences_total\{reason="protocol"\} 6$/m)
  })

  test('a ban ends, and is not named any more then', async () => {
    const { standing: peers, metrics } = standing()
    peers.ban('peer', 0, 'protocol')
    assert.equal(peers.isBanned('peer'), false)
    assert.doesNotMatch(await metrics.metrics(), /shoal_peer_ban_seconds\{/)
  })

  test('a cluster of liars does not fill the memory, or the metrics', async () => {
    const { standing: peers, metrics } = standing()
    for (let peer = 0; peer < 10_050; peer++) peers.ban(`peer${peer}`, 60_000, 'protocol')
    assert.equal(peers.isBanned('peer0'), false)
    assert.equal(peers.isBanned('peer10049'), true)
    const text = await metrics.metrics()
    assert.equal(text.match(/^shoal_peer_ban_seconds\{/gm)?.length, 100)
  })
})
