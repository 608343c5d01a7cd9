// Free ports on loopback, for daemons that a test starts without a network of their own.
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'

/** Ports that nothing listens on right now, each different. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(servers.map((server) => once(server, 'listening')))
  const ports = servers.map((server) => (server.address() as AddressInfo).port)
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
  return ports
}
