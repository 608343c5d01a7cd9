import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { Key } from 'interface-datastore'
import { peerIdFromString } from '@libp2p/peer-id'
import { DhtDatastore } from './dht-datastore.ts'
import { createIdentity } from './identity.ts'

const VALUE = new Uint8Array([1])
const record = (blob: string, provider: string): Key => new Key(`/dht/provider/${blob}/${provider}`)

async function providersOf(store: DhtDatastore, blob: string): Promise<string[]> {
  const found: string[] = []
  for await (const { key } of store.query({ prefix: `/dht/provider/${blob}` })) found.push(key.baseNamespace())
  return found.sort()
}

suite('datastore of the DHT', () => {
  test('provider records are found by blob, listed for the sweep, and deleted', async () => {
    const store = new DhtDatastore()
    await store.put(record('aa', 'one'), VALUE)
    await store.put(record('aa', 'two'), VALUE)
    await store.put(record('aab', 'three'), VALUE)
    assert.deepEqual(await providersOf(store, 'aa'), ['one', 'two'])
    assert.deepEqual(await store.get(record('aa', 'one')), VALUE)
    assert.equal(await store.has(record('aa', 'four')), false)
    await assert.rejects(async () => await store.get(record('aa', 'four')), { name: 'NotFoundError' })
    const all: string[] = []
    for await (const { key } of store.query({ prefix: '/dht/provider' })) {
      all.push(key.toString())
      await store.delete(key)
    }
    assert.equal(all.length, 3)
    assert.equal(store.providerRecords, 0)
    assert.deepEqual(await providersOf(store, 'aa'), [])
  })

  test('a provider of a million blobs pushes out its own records and nobody else’s', async () => {
    const store = new DhtDatastore({ recordsPerProvider: 100, records: 1000 })
    await store.put(record('honest', 'honest'), VALUE)
    for (let blob = 0; blob < 5000; blob++) await store.put(record(`b${blob}`, 'liar'), VALUE)
    assert.equal(store.providerRecords, 101)
    assert.deepEqual(await providersOf(store, 'honest'), ['honest'])
    assert.deepEqual(await providersOf(store, 'b4999'), ['liar'])
    assert.deepEqual(await providersOf(store, 'b0'), [])
  })

  test('many providers together have a bound, too: who has most loses first', async () => {
    const store = new DhtDatastore({ recordsPerProvider: 100, records: 150 })
    await store.put(record('honest', 'honest'), VALUE)
    for (const liar of ['l1', 'l2', 'l3']) {
      for (let blob = 0; blob < 100; blob++) await store.put(record(`${liar}${blob}`, liar), VALUE)
    }
    assert.equal(store.providerRecords, 150)
    assert.deepEqual(await providersOf(store, 'honest'), ['honest'])
  })

  test('who is forgotten as a peer is forgotten as a provider', async () => {
    const store = new DhtDatastore({ peers: 2 })
    const peers = await Promise.all([1, 2, 3].map(async () => peerIdFromString((await createIdentity()).peerId)))
    for (const peer of peers) {
      await store.put(record('blob', peer.toString()), VALUE)
      await store.put(new Key(`/peers/${peer.toCID().toString()}`), VALUE)
    }
    const [, second, third] = peers.map(String)
    assert.deepEqual(await providersOf(store, 'blob'), [second, third].sort())
    assert.equal(store.providerRecords, 2)
  })

  test('what is said again is younger than the rest', async () => {
    const store = new DhtDatastore({ recordsPerProvider: 2 })
    for (const blob of ['a', 'b', 'a', 'c']) await store.put(record(blob, 'one'), VALUE)
    assert.deepEqual(await providersOf(store, 'a'), ['one'])
    assert.deepEqual(await providersOf(store, 'b'), [])
  })

  test('known peers are bounded: the oldest go', async () => {
    const store = new DhtDatastore({ peers: 3 })
    for (let peer = 1; peer <= 5; peer++) await store.put(new Key(`/peers/p${peer}`), VALUE)
    const peers: string[] = []
    for await (const key of store.queryKeys({ prefix: '/peers/' })) peers.push(key.baseNamespace())
    assert.deepEqual(peers.sort(), ['p3', 'p4', 'p5'])
  })
})
