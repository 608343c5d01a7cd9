// The errors of this room: one class per cause, with a code that callers branch on.

/** Why the control plane could not do what it was asked. */
export type NetworkErrorCode =
  /** No address of the peer answered in time. */
  | 'UNREACHABLE'
  /** The peer answered but refused: not a member, banned here or there, or no control protocol. */
  | 'REFUSED'
  /** The plane is not started or is stopping. */
  | 'NOT_RUNNING'
  /** The caller's signal fired. */
  | 'ABORTED'
  /** An address in the configuration cannot be understood. */
  | 'BAD_ADDRESS'

/** Thrown by the control plane. */
export class NetworkError extends Error {
  override readonly name = 'NetworkError'
  readonly code: NetworkErrorCode

  constructor(code: NetworkErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Why a chunk did not come. */
export type TransferErrorCode =
  /** Nobody listens there, or not within the dial timeout. */
  | 'UNREACHABLE'
  /** TLS or the proofs failed: no member, another swarm key, somebody in between. */
  | 'HANDSHAKE_FAILED'
  /** A member answered, but not the one that was asked for. */
  | 'WRONG_PEER'
  /** The peer sent what the protocol does not allow; the connection is closed. */
  | 'PROTOCOL'
  /** The connection went away. */
  | 'CLOSED'
  /** The caller's signal fired. */
  | 'ABORTED'
  /** The peer could not read the chunk it had promised. */
  | 'REMOTE_FAILED'
  /** This node has too many requests or connections open already. */
  | 'OVERLOADED'

/** Thrown by the transfer plane. */
export class TransferError extends Error {
  override readonly name = 'TransferError'
  readonly code: TransferErrorCode

  constructor(code: TransferErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Thrown for bytes that are no control message. */
export class InvalidMessageError extends Error {
  override readonly name = 'InvalidMessageError'
}

/** Thrown for a message of this node that the other side would refuse. It is nobody's fault but ours. */
export class UnsendableMessageError extends Error {
  override readonly name = 'UnsendableMessageError'
}

/** Thrown when the identity file cannot be used; the message says what to do. */
export class IdentityError extends Error {
  override readonly name = 'IdentityError'
}

/** Thrown when a swarm key file cannot be used; the message says what to do. Never contains key material. */
export class SwarmKeyError extends Error {
  override readonly name = 'SwarmKeyError'
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The system's code of whatever was thrown, such as ENOENT, or empty. */
export function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' ? code : ''
}
