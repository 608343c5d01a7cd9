import assert from 'node:assert/strict'
import { syncBuiltinESMExports } from 'node:module'
import os from 'node:os'
import test from 'node:test'
import type { Listener } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { steady } from './steady-listener.ts'
import { startPlane } from './testing/planes.ts'

test('a listener tells the addresses that it told last while the system cannot list them', () => {
  const [before, after] = [multiaddr('/ip4/10.0.0.1/tcp/7701'), multiaddr('/ip4/10.0.0.2/tcp/7701')]
  let answer: () => ReturnType<Listener['getAddrs']> = () => [before]
  const listener = steady({ getAddrs: () => answer() } as Listener)
  assert.deepEqual(listener.getAddrs(), [before])
  answer = () => {
    throw new Error('uv_interface_addresses returned EMFILE')
  }
  assert.deepEqual(listener.getAddrs(), [before])
  answer = () => [after]
  assert.deepEqual(listener.getAddrs(), [after])
})

test('a node goes on to tell where it is when the system cannot list its interfaces', async (t) => {
  const plane = await startPlane(t, { host: '0.0.0.0' })
  const before = plane.address
  assert.ok(before.multiaddrs.length > 0)
  t.mock.method(os, 'networkInterfaces', () => {
    throw new Error('uv_interface_addresses returned EMFILE')
  })
  syncBuiltinESMExports()
  t.after(() => {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  })
  assert.deepEqual(plane.address, before)
})
