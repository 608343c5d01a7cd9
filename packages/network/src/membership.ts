// Who may speak on the control plane: a libp2p connection encrypter that lets nobody past it without the swarm key.
//
// Noise proves who the two ends are. Inside of its channel, before the connection is handed to libp2p and thus before
// the multiplexer, identify, ping, the DHT or a control channel can say a word, both ends prove that they hold a swarm
// key: HMAC-SHA256(key, label | role | dialer's id | listener's id | dialer's nonce | listener's nonce). The ids bind the
// proof to this pair, so that it is of no use when it is passed on; the nonces bind it to this connection; the role
// keeps one end from answering with the other's proof. The dialer proves first: a listener tells a stranger nothing
// but the identity that Noise showed already.
//
// libp2p's own private networks (pnet) know one key only, so keys could not be rotated; they also encrypt all bytes
// once more in JavaScript.
import { randomBytes } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import type { ConnectionEncrypter, SecureConnectionOptions, SecuredConnection } from '@libp2p/interface'
import { byteStream } from '@libp2p/utils'
import { messageOf } from './errors.ts'
import { checkLengthsFirst } from './noise-lengths.ts'
import { PROOF_BYTES, type SwarmKeys } from './swarm-key.ts'

/** Not Noise's own name: a libp2p node that is no part of Shoal finds nothing to talk about. */
export const MEMBERSHIP_PROTOCOL = '/shoal/noise-member/1.0.0'
const LABEL = 'shoal/control/membership/1'
const NONCE_BYTES = 32
/** From the first byte of Noise to the second proof. */
const HANDSHAKE_TIMEOUT_MS = 8000

type NoiseComponents = Parameters<ReturnType<typeof noise>>[0]

export interface MembershipInit {
  swarmKeys: SwarmKeys
  /** Own peer id in its text form. */
  peerId: string
  /** Told of every connection that failed here. `proof`: the other side holds no key that is accepted. */
  onFailure: (direction: 'inbound' | 'outbound', reason: 'noise' | 'proof' | 'closed', peerId: string) => void
}

/** Noise, and membership inside of it. */
export function membershipEncrypter(init: MembershipInit): (components: NoiseComponents) => ConnectionEncrypter {
  return (components) => {
    const channel = noise()(components)
    const secure = async (
      direction: 'inbound' | 'outbound',
      secured: Promise<SecuredConnection>,
      signal: AbortSignal,
    ): Promise<SecuredConnection> => {
      let connection: SecuredConnection
      try {
        connection = await secured
      } catch (error) {
        init.onFailure(direction, 'noise', '')
        throw error
      }
      checkLengthsFirst(connection.connection)
      await (direction === 'outbound' ? proveAsDialer : proveAsListener)(init, connection, signal)
      return connection
    }
    const withDeadline = (options?: SecureConnectionOptions): SecureConnectionOptions & { signal: AbortSignal } => {
      const deadline = AbortSignal.timeout(HANDSHAKE_TIMEOUT_MS)
      return { ...options, signal: options?.signal == null ? deadline : AbortSignal.any([options.signal, deadline]) }
    }
    return {
      protocol: MEMBERSHIP_PROTOCOL,
      secureOutbound: (stream, options) => {
        const bounded = withDeadline(options)
        return secure('outbound', channel.secureOutbound(stream, bounded), bounded.signal)
      },
      secureInbound: (stream, options) => {
        const bounded = withDeadline(options)
        return secure('inbound', channel.secureInbound(stream, bounded), bounded.signal)
      },
    }
  }
}

async function proveAsDialer(init: MembershipInit, secured: SecuredConnection, signal: AbortSignal): Promise<void> {
  await exchange(init, 'outbound', secured, async (bytes) => {
    const listener = secured.remotePeer.toString()
    const own = randomBytes(NONCE_BYTES)
    await bytes.write(own, { signal })
    const theirs = (await bytes.read({ bytes: NONCE_BYTES, signal })).subarray()
    const parts = (role: string): (Uint8Array | string)[] => [LABEL, role, init.peerId, listener, own, theirs]
    await bytes.write(init.swarmKeys.prove(parts('dialer')), { signal })
    const proof = (await bytes.read({ bytes: PROOF_BYTES, signal })).subarray()
    return init.swarmKeys.accepts(parts('listener'), proof)
  })
}

async function proveAsListener(init: MembershipInit, secured: SecuredConnection, signal: AbortSignal): Promise<void> {
  await exchange(init, 'inbound', secured, async (bytes) => {
    const dialer = secured.remotePeer.toString()
    const own = randomBytes(NONCE_BYTES)
    const theirs = (await bytes.read({ bytes: NONCE_BYTES, signal })).subarray()
    await bytes.write(own, { signal })
    const parts = (role: string): (Uint8Array | string)[] => [LABEL, role, dialer, init.peerId, theirs, own]
    const proof = (await bytes.read({ bytes: PROOF_BYTES, signal })).subarray()
    if (!init.swarmKeys.accepts(parts('dialer'), proof)) return false
    await bytes.write(init.swarmKeys.prove(parts('listener')), { signal })
    return true
  })
}

/** Runs one side of the exchange; when it fails nothing of the connection is left. */
async function exchange(
  init: MembershipInit,
  direction: 'inbound' | 'outbound',
  secured: SecuredConnection,
  run: (bytes: ReturnType<typeof byteStream>) => Promise<boolean>,
): Promise<void> {
  const bytes = byteStream(secured.connection, { maxBufferSize: 256 * 1024 })
  const peerId = secured.remotePeer.toString()
  let proven: boolean
  try {
    proven = await run(bytes)
  } catch (error) {
    init.onFailure(direction, 'closed', peerId)
    const failure = new Error(
      `${peerId} did not prove its membership, or does not accept ours: ${messageOf(error)}. ` +
        'Do both nodes have the same swarm key?',
      { cause: error },
    )
    secured.connection.abort(failure)
    throw failure
  }
  if (!proven) {
    init.onFailure(direction, 'proof', peerId)
    const failure = new Error(`${peerId} has no swarm key that is accepted here`)
    secured.connection.abort(failure)
    throw failure
  }
  bytes.unwrap()
}
