// The TCP transport of libp2p, whose listeners go on to tell their addresses when the system cannot list them: without a
// free file descriptor that fails, and an agent ended because of it. Nor does who says nothing keep others out.
import type { Listener, Transport } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import type { Multiaddr } from '@multiformats/multiaddr'
import { withRoom } from './pending-upgrades.ts'

/** As `tcp()` of libp2p. `onRefused` is told what the system says of an address that cannot be listened on. */
export function steadyTcp(onRefused: (error: unknown) => void): ReturnType<typeof tcp> {
  const make = tcp()
  return (components) => {
    const transport: Transport = make(components)
    const createListener = transport.createListener.bind(transport)
    transport.createListener = (options) => {
      const listener = steady(createListener({ ...options, upgrader: withRoom(options.upgrader) }))
      const listen = listener.listen.bind(listener)
      listener.listen = async (address) => {
        await listen(address).catch((error: unknown) => {
          onRefused(error)
          throw error
        })
      }
      return listener
    }
    return transport
  }
}

/** Gives the addresses told last when finding them out fails. */
export function steady(listener: Listener): Listener {
  const getAddrs = listener.getAddrs.bind(listener)
  let last: Multiaddr[] = []
  listener.getAddrs = () => {
    try {
      last = getAddrs()
    } catch {
      // Nothing about the listener has changed; the next call asks again.
    }
    return last
  }
  return listener
}
