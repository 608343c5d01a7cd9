// Control messages to protobuf and back. An Envelope holds one message; its field number is the message's kind, so that
// a kind of a later version is skipped like any unknown field. proto/shoal.proto is the schema.
import { PbfWriter } from 'pbf'
import * as agent from './codec-agent.ts'
import type { Codec } from './codec-parts.ts'
import * as preheat from './codec-preheat.ts'
import * as tracker from './codec-tracker.ts'
import { InvalidMessageError, UnsendableMessageError } from './errors.ts'
import { MAX_CONTROL_MESSAGE_BYTES, type ControlMessage } from './messages.ts'
import { ProtoReader } from './proto-reader.ts'

type Kind = ControlMessage['type']
type MessageOf<K extends Kind> = Extract<ControlMessage, { type: K }>
type Kinds = { [K in Kind]: { field: number; codec: Codec<MessageOf<K>> } }

const KINDS: Kinds = {
  hello: { field: 1, codec: agent.hello },
  'swarm-join': { field: 2, codec: agent.swarmJoin },
  'swarm-refuse': { field: 3, codec: agent.swarmRefuse },
  'swarm-leave': { field: 4, codec: agent.swarmLeave },
  have: { field: 5, codec: agent.have },
  lost: { field: 6, codec: agent.lost },
  claim: { field: 7, codec: agent.claim },
  'tag-query': { field: 8, codec: agent.tagQuery },
  'tag-known': { field: 9, codec: agent.tagKnown },
  'hash-query': { field: 10, codec: agent.hashQuery },
  'tracker-join': { field: 16, codec: tracker.trackerJoin },
  'tracker-leave': { field: 17, codec: tracker.trackerLeave },
  'tracker-peers-wanted': { field: 18, codec: tracker.trackerPeersWanted },
  'tracker-peers': { field: 19, codec: tracker.trackerPeers },
  'lease-grant': { field: 20, codec: tracker.leaseGrant },
  'lease-progress': { field: 21, codec: tracker.leaseProgress },
  'lease-done': { field: 22, codec: tracker.leaseDone },
  'tracker-progress': { field: 23, codec: tracker.trackerProgress },
  'tag-ask': { field: 24, codec: tracker.tagAsk },
  'tag-lookup': { field: 25, codec: tracker.tagLookup },
  'tag-result': { field: 26, codec: tracker.tagResult },
  'tag-answer': { field: 27, codec: tracker.tagAnswer },
  'peer-report': { field: 28, codec: tracker.peerReport },
  'preheat-order': { field: 29, codec: preheat.preheatOrder },
  'preheat-cancel': { field: 30, codec: preheat.preheatCancel },
  'preheat-report': { field: 31, codec: preheat.preheatReport },
  'tracker-holdings': { field: 32, codec: tracker.trackerHoldings },
}

const READERS = new Map<number, (reader: ProtoReader) => ControlMessage>(
  Object.values(KINDS).map(({ field, codec }) => [field, (reader) => codec.read(reader)]),
)

/**
 * All messages are written here and copied out: a writer of its own for each would grow from 16 bytes, which cost a busy
 * tracker a twelfth of its time.
 */
const scratch = new PbfWriter(new Uint8Array(64 * 1024))

/**
 * Protobuf of a message, without the length that goes before it on a stream.
 *
 * @throws UnsendableMessageError when the receiver would refuse it: too long, or out of a field's bounds
 */
export function encodeControlMessage(message: ControlMessage): Uint8Array {
  // What is left of a message that was refused half-way is written over.
  scratch.pos = 0
  scratch.length = scratch.buf.length
  // The table ties each kind to its codec; TypeScript cannot follow that through an index.
  const { field, codec } = KINDS[message.type] as unknown as { field: number; codec: Codec<ControlMessage> }
  try {
    scratch.writeMessage(field, codec.write, message)
  } catch (error) {
    if (!(error instanceof InvalidMessageError)) throw error
    // A listener that answers with this must not be taken for one that refuses what it was told.
    throw new UnsendableMessageError(error.message, { cause: error })
  }
  const bytes = scratch.finish().slice()
  if (bytes.byteLength > MAX_CONTROL_MESSAGE_BYTES) {
    throw new UnsendableMessageError(
      `A ${message.type} of ${bytes.byteLength} bytes; at most ${MAX_CONTROL_MESSAGE_BYTES} may be sent`,
    )
  }
  return bytes
}

/**
 * The message in `bytes`; undefined when it is of a kind that this version does not know, or empty (a sign of life).
 *
 * @throws InvalidMessageError for anything else that is no control message
 */
export function decodeControlMessage(bytes: Uint8Array): ControlMessage | undefined {
  if (bytes.byteLength > MAX_CONTROL_MESSAGE_BYTES) throw new InvalidMessageError('A control message is too long')
  const reader = new ProtoReader(bytes)
  let message: ControlMessage | undefined
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    const read = READERS.get(field)
    if (read === undefined) continue
    // Merging, as protobuf would have it for a oneof given twice, serves nobody here.
    if (message !== undefined) throw new InvalidMessageError('Two messages in one envelope')
    message = reader.message(read)
  }
  return message
}
