// A node of the DHT as a process of its own, told by its parent what to do: the control plane of an agent, nothing else.
import { createControlPlane, createIdentity, loadSwarmKeys } from '@shoal/network'
import type { Digest } from '@shoal/oci'
import pino from 'pino'

/** What the parent asks. */
export type DhtOrder = { id: number } & ({ do: 'provide' | 'find'; digest: Digest } | { do: 'stop' })

/** What comes back. */
export interface DhtAnswer {
  id: number
  tookMs: number
  /** Of a search: how many nodes were found. */
  found: number
  /** Peers in the routing table. */
  known: number
  error?: string
}

const LIMIT_MS = 30_000
const [keyFile = '', ...bootstrap] = process.argv.slice(2)

const plane = await createControlPlane({
  identity: await createIdentity(),
  swarmKeys: await loadSwarmKeys([keyFile]),
  agent: 'shoal-bench/0.0.0',
  logger: pino({ level: 'silent' }),
  host: '127.0.0.1',
  port: 0,
  bootstrap,
})
await plane.start()

/** Time to the first node that has it, in milliseconds. */
async function find(digest: Digest): Promise<{ tookMs: number; found: number }> {
  const startedMs = performance.now()
  for await (const provider of plane.findProviders(digest, AbortSignal.timeout(LIMIT_MS))) {
    if (provider.peerId !== '') return { tookMs: performance.now() - startedMs, found: 1 }
  }
  return { tookMs: performance.now() - startedMs, found: 0 }
}

async function provide(digest: Digest): Promise<{ tookMs: number; found: number }> {
  const startedMs = performance.now()
  await plane.provide(digest, AbortSignal.timeout(LIMIT_MS))
  return { tookMs: performance.now() - startedMs, found: 0 }
}

async function obey(order: DhtOrder): Promise<void> {
  if (order.do === 'stop') {
    await plane.stop()
    process.exit(0)
  }
  const answer = (rest: Partial<DhtAnswer>): void => {
    process.send?.({ id: order.id, tookMs: 0, found: 0, known: plane.routingTableSize(), ...rest } satisfies DhtAnswer)
  }
  try {
    answer(await (order.do === 'find' ? find(order.digest) : provide(order.digest)))
  } catch (error) {
    answer({ error: String(error) })
  }
}

process.on('message', (order: DhtOrder) => {
  obey(order).catch((error: unknown) => {
    process.stderr.write(`${String(error)}\n`)
    process.exit(1)
  })
})
process.on('disconnect', () => process.exit(0))
process.send?.({ address: plane.address.multiaddrs[0] })
