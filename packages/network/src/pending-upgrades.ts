// Connections of others that have not proven their membership yet. libp2p takes so many at once and refuses what comes then, so
// a stranger who opens some hundred connections and says nothing would keep all members out. Here the oldest makes room:
// a member proves itself within milliseconds.
import type { Upgrader } from '@libp2p/interface'

/** More than a rack that dials at once; less than `maxIncomingPendingConnections`, so that libp2p never refuses one. */
const MAX_PENDING_UPGRADES = 400

/** The same upgrader, which gives up the oldest upgrade of a connection from outside when there are more than `max`. */
export function withRoom(upgrader: Upgrader, max = MAX_PENDING_UPGRADES): Upgrader {
  const pending = new Set<AbortController>()
  const upgradeInbound: Upgrader['upgradeInbound'] = async (connection, options) => {
    const pushedOut = new AbortController()
    pending.add(pushedOut)
    if (pending.size > max) {
      const [oldest] = pending
      oldest?.abort(new Error('too many connections have not proven their membership'))
    }
    try {
      const signal = AbortSignal.any([options.signal, pushedOut.signal])
      await upgrader.upgradeInbound(connection, { ...options, signal })
    } finally {
      pending.delete(pushedOut)
    }
  }
  return Object.assign(Object.create(upgrader) as Upgrader, { upgradeInbound })
}
