// Fewer window updates on control streams. @libp2p/yamux 8.0 answers every data frame with a window update, so that each
// small message costs two encrypted packets instead of one. A control stream never comes near its window: an update when
// half of it is used is as good (the way of RFC 9113's implementations, and of other yamux implementations).
import type { Stream } from '@libp2p/interface'

/** What is looked at of a yamux stream. Private there, so nothing is done where it looks different. */
interface YamuxStream {
  state: number
  recvWindow: number
  recvWindowCapacity: number
  sendWindowUpdate: () => void
}

/** yamux's StreamState.Established: in all other states an update carries flags that must not wait. */
const ESTABLISHED = 3

/** Lets a stream tell of its window only when half of it is used. */
export function quietWindowUpdates(stream: Stream): void {
  const yamux = stream as unknown as Partial<YamuxStream>
  const { sendWindowUpdate } = yamux
  if (typeof sendWindowUpdate !== 'function' || typeof yamux.recvWindowCapacity !== 'number') return
  yamux.sendWindowUpdate = function (this: YamuxStream): void {
    if (this.state === ESTABLISHED && this.recvWindowCapacity * 2 > this.recvWindow) return
    sendWindowUpdate.call(this)
  }
}
