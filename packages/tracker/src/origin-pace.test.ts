import assert from 'node:assert/strict'
import test from 'node:test'
import { DEFAULT_PARAMETERS } from '@shoal/swarm'
import { OriginPace } from './origin-pace.ts'

const HOST = 'origin.test'
const setUp = (leasesPerOrigin = 2) => new OriginPace({ ...DEFAULT_PARAMETERS, leasesPerOrigin })

test('there is room until as many leases are out as the origin may have', () => {
  const pace = setUp()
  pace.count(HOST, 'one', 1)
  assert.equal(pace.hasRoom(HOST, 0), true)
  pace.count(HOST, 'one', 1)
  assert.equal(pace.hasRoom(HOST, 0), false)
  assert.equal(pace.hasRoom('other.test', 0), true)
  pace.count(HOST, 'one', -1)
  assert.equal(pace.hasRoom(HOST, 0), true)
})

test('who holds more than its share of an origin hoards it while another waits', () => {
  const pace = setUp(8)
  for (let held = 0; held < 2; held++) {
    assert.equal(pace.isWithinShare(HOST, 'one'), true)
    pace.count(HOST, 'one', 1)
  }
  assert.equal(pace.isWithinShare(HOST, 'one'), false)
  pace.waits(HOST, 0)
  assert.equal(pace.isHoarding(HOST, 'one', 0), false, 'its share it may have')
  pace.count(HOST, 'one', 1)
  assert.equal(pace.isHoarding(HOST, 'one', 0), true)
  assert.equal(pace.isHoarding('other.test', 'one', 0), false)
  assert.equal(pace.isHoarding(HOST, 'one', 2000), false, 'nobody waits any more')
  pace.count(HOST, 'one', -1)
  assert.equal(pace.isWithinShare(HOST, 'other'), true)
})

test('a pause that one member alone asks for is short, however often it says so', () => {
  const pace = setUp()
  pace.pause(HOST, 'liar', 1e9, 0)
  assert.equal(pace.hasRoom(HOST, 999), false)
  assert.equal(pace.hasRoom(HOST, 1000), true)
  pace.pause(HOST, 'liar', 1e9, 1000)
  assert.equal(pace.hasRoom(HOST, 1001), true, 'its word counts once')
  // Much later it may be true.
  pace.pause(HOST, 'liar', 1e9, 20_000)
  assert.equal(pace.hasRoom(HOST, 20_999), false)
})

test('in an outage each member that is sent to the origin says so, and all have a rest from it', () => {
  const pace = setUp()
  pace.pause(HOST, 'one', 4000, 0)
  for (const [at, peer] of ['two', 'three', 'one', 'two'].entries()) {
    const now = 4000 * (at + 1)
    pace.pause(HOST, peer, 4000, now)
    assert.equal(pace.hasRoom(HOST, now + 3999), false)
  }
})

test('a pause that two members ask for lasts as long as they say, up to ten seconds', () => {
  const pace = setUp()
  pace.pause(HOST, 'one', 4000, 0)
  pace.pause(HOST, 'other', 4000, 10)
  assert.equal(pace.hasRoom(HOST, 4009), false)
  assert.equal(pace.hasRoom(HOST, 4010), true)
  pace.pause(HOST, 'one', 1e9, 5000)
  assert.equal(pace.hasRoom(HOST, 14_999), false)
  assert.equal(pace.hasRoom(HOST, 15_000), true)
  assert.equal(pace.hasRoom('other.test', 5001), true)
})
