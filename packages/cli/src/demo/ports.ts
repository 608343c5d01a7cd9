// Free ports for processes that are yet to start.
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Server } from 'node:net'

/** Below the range that Linux takes for outgoing connections (32768 on), so nobody takes them by chance meanwhile. */
const FIRST_PORT = 20_000
const LAST_PORT = 32_000
const MAX_ATTEMPTS = 1_000

async function tryListen(port: number): Promise<Server | undefined> {
  const server = createServer()
  server.listen({ port, host: '127.0.0.1', exclusive: true })
  try {
    await once(server, 'listening')
    return server
  } catch {
    return undefined
  }
}

/** That many different ports of 127.0.0.1 that were free a moment ago. */
export async function freePorts(count: number): Promise<number[]> {
  // Held until all are found, so that none is found twice.
  const held = new Map<number, Server>()
  try {
    for (let attempt = 0; held.size < count; attempt++) {
      if (attempt > MAX_ATTEMPTS) throw new Error(`there are no ${count} free ports from ${FIRST_PORT} to ${LAST_PORT}`)
      const port = randomInt(FIRST_PORT, LAST_PORT)
      const server = held.has(port) ? undefined : await tryListen(port)
      if (server) held.set(port, server)
    }
    return [...held.keys()]
  } finally {
    await Promise.all([...held.values()].map((server) => new Promise((resolve) => server.close(resolve))))
  }
}
