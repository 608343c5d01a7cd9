// Rejections that js-libp2p leaves behind when a connection ends at a bad moment. They concern one stream or query that
// is over anyway; to die of them would let a remote peer stop a node.
const LIBP2P_NAMES = new Set([
  'StreamResetError',
  'StreamAbortedError',
  'StreamStateError',
  'StreamClosedError',
  'MuxerClosedError',
  'ConnectionClosedError',
  'ConnectionClosingError',
  'ConnectionFailedError',
  'QueryAbortedError',
  'TooManyInboundProtocolStreamsError',
  'TooManyOutboundProtocolStreamsError',
])

/** Names that others use too: harmless only where the stack shows that js-libp2p threw them. */
const COMMON_NAMES = new Set(['AbortError', 'TimeoutError', 'UnexpectedEOFError', 'NotStartedError'])

const LIBP2P_FRAME = /[\\/]node_modules[\\/](@libp2p|libp2p|@chainsafe|race-signal|race-event|it-[\w-]+|p-event)[\\/]/

export function isHarmless(reason: unknown): boolean {
  if (!(reason instanceof Error)) return false
  if (LIBP2P_NAMES.has(reason.name)) return true
  return COMMON_NAMES.has(reason.name) && LIBP2P_FRAME.test(reason.stack ?? '')
}
