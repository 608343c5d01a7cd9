// Somebody who has a swarm key, and tries what it opens: knocks at both planes of agents and prints how it went.
import { createHash } from 'node:crypto'
import { createControlPlane, createIdentity, createTransferPlane, loadSwarmKeys } from '@shoal/network'
import type { Digest } from '@shoal/oci'
import pino from 'pino'

/** `open`, or the code of the error; of the transfer plane also the SHA-256 of the chunk that was given. */
export interface Knock {
  control: string
  transfer: string
  chunk: string
}

const LIMIT_MS = 30_000
// Targets are `address/peer id`.
const [keyFile = '', digest = '', chunkBytes = '0', ...targets] = process.argv.slice(2)

const common = {
  identity: await createIdentity(),
  swarmKeys: await loadSwarmKeys([keyFile]),
  logger: pino({ level: 'silent' }),
  port: 0,
}
const control = await createControlPlane({ ...common, agent: 'shoal-test/0.0.0' })
const transfer = createTransferPlane({ ...common, handler: () => ({ status: 'missing' }) })

const codeOf = (error: unknown): string => (error as { code?: string }).code ?? String(error)

async function tryControl(address: string): Promise<string> {
  try {
    await control.channelTo(`${address}:7701`, AbortSignal.timeout(LIMIT_MS))
    return 'open'
  } catch (error) {
    return codeOf(error)
  }
}

async function tryTransfer(address: string, peerId: string): Promise<Pick<Knock, 'transfer' | 'chunk'>> {
  const into = Buffer.alloc(Number(chunkBytes))
  const wanted = { digest: digest as Digest, index: 0, into, requestId: 'test', signal: AbortSignal.timeout(LIMIT_MS) }
  try {
    const { status } = await transfer.fetch({ peerId, multiaddrs: [], transfer: `${address}:7702`, zone: '' }, wanted)
    if (status !== 'ok') return { transfer: status, chunk: '' }
    return { transfer: 'open', chunk: createHash('sha256').update(into).digest('hex') }
  } catch (error) {
    return { transfer: codeOf(error), chunk: '' }
  }
}

await control.start()
const knocks: Knock[] = []
for (const target of targets) {
  const [address = '', peerId = ''] = target.split('/')
  knocks.push({ control: await tryControl(address), ...(await tryTransfer(address, peerId)) })
}
process.stdout.write(`${JSON.stringify(knocks)}\n`)
await transfer.stop()
await control.stop()
