// Channels that keep what is sent over them, in place of nodes.
import type { ControlChannel, ControlMessage } from '@shoal/network'

export type Sent<K extends ControlMessage['type']> = Extract<ControlMessage, { type: K }>

/** A channel to a node that does not exist. */
export class FakeChannel implements ControlChannel {
  readonly peerId: string
  readonly hello: ControlChannel['hello']
  readonly sent: ControlMessage[] = []
  readonly closed: Promise<void>
  isOpen = true
  onMessage: (message: ControlMessage) => void = () => undefined
  readonly #close: () => void

  constructor(peerId: string, zone = '', version = 1) {
    this.peerId = peerId
    const node = { peerId, multiaddrs: [], transfer: '', zone }
    this.hello = { type: 'hello', version, agent: 'test', node }
    const { promise, resolve } = Promise.withResolvers<void>()
    this.closed = promise
    this.#close = resolve
  }

  send(message: ControlMessage): void {
    if (this.isOpen) this.sent.push(message)
  }

  async close(): Promise<void> {
    this.isOpen = false
    this.#close()
  }

  /** Takes out what was sent so far, of one kind. */
  take<K extends ControlMessage['type']>(type: K): Sent<K>[] {
    const taken: Sent<K>[] = []
    for (let at = 0; at < this.sent.length;) {
      if (this.sent[at]!.type === type) taken.push(this.sent.splice(at, 1)[0] as Sent<K>)
      else at++
    }
    return taken
  }
}
