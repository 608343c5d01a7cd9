// What the tests of this room share: control planes on the loopback that are stopped with the test.
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import pino, { type Logger } from 'pino'
import type { ControlPlaneOptions } from '../control-options.ts'
import { createControlPlane, type Libp2pControlPlane } from '../control-plane.ts'
import { createIdentity, type Identity } from '../identity.ts'
import type { ControlMessage } from '../messages.ts'
import type { ControlChannel } from '../network.ts'
import { SwarmKeys } from '../swarm-key.ts'

export const silent: Logger = pino({ level: process.env['SHOAL_TEST_LOG'] ?? 'silent' })

/** Different keys for different numbers. */
export function testKey(number: number): Uint8Array {
  return new Uint8Array(32).fill(number)
}

export const testKeys = new SwarmKeys([testKey(1)])

/** A control plane that is not started, and is stopped when the test ends. */
export async function makePlane(
  t: TestContext,
  options: Partial<ControlPlaneOptions> & { identity?: Identity } = {},
): Promise<Libp2pControlPlane> {
  const plane = await createControlPlane({
    identity: options.identity ?? (await createIdentity()),
    swarmKeys: testKeys,
    agent: 'shoal-test/0.0.0',
    logger: silent,
    host: '127.0.0.1',
    port: 0,
    transferPort: 7702,
    ...options,
  })
  t.after(() => plane.stop())
  return plane
}

export async function startPlane(
  t: TestContext,
  options: Partial<ControlPlaneOptions> & { identity?: Identity } = {},
): Promise<Libp2pControlPlane> {
  const plane = await makePlane(t, options)
  await plane.start()
  return plane
}

/** A limit for things that should take milliseconds: only a broken test meets it. */
export function patience(ms = 20_000): AbortSignal {
  return AbortSignal.timeout(ms)
}

/** A TCP port that is free now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Collects what comes in on a channel; `next` waits for one more. */
export class Inbox {
  readonly messages: ControlMessage[] = []
  #waiting: (() => void)[] = []

  constructor(channel: ControlChannel) {
    channel.onMessage = (message) => {
      this.messages.push(message)
      for (const wake of this.#waiting.splice(0)) wake()
    }
  }

  /** Waits until `count` messages are there. */
  async has(count: number): Promise<ControlMessage[]> {
    const signal = patience()
    while (this.messages.length < count) {
      await new Promise<void>((resolve, reject) => {
        this.#waiting.push(resolve)
        signal.addEventListener('abort', () => {
          reject(new Error(`${this.messages.length} of ${count} messages came`))
        })
      })
    }
    return this.messages
  }
}

/** The next channel that a plane is given. */
export function nextChannel(plane: Libp2pControlPlane): Promise<ControlChannel> {
  return new Promise((resolve) => {
    plane.onChannel = resolve
  })
}

/** Waits until `condition` holds, looking again every few milliseconds. For states that no event tells of. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const signal = patience()
  while (!condition()) {
    if (signal.aborted) throw new Error(`Never came true: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
