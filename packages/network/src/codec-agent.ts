// Protobuf of hello and of the messages between agents (proto/shoal.proto).
import {
  chunkVoucher,
  LIMITS,
  nodeAddress,
  readDigest,
  readIndices,
  readInto,
  readOptionalDigest,
  required,
  UINT32,
  writeAddresses,
  writeBool,
  writeBytes,
  writeDigest,
  writeEach,
  writeIndices,
  writeString,
  writeUint,
  type Codec,
} from './codec-parts.ts'
import { InvalidMessageError } from './errors.ts'
import type {
  Claim,
  HashQuery,
  Have,
  Hello,
  Lost,
  NodeAddress,
  SwarmJoin,
  SwarmLeave,
  SwarmRefuse,
  TagKnown,
  TagQuery,
} from './messages.ts'

const INSTANCE_BYTES = 32
const REFUSE_REASONS: readonly SwarmRefuse['reason'][] = ['unknown', 'full']

export const hello: Codec<Hello> = {
  write(message, writer) {
    writeUint(writer, 1, message.version, UINT32)
    writeString(writer, 2, message.agent, LIMITS.agentBytes)
    writer.writeMessage(3, nodeAddress.write, message.node)
    writeString(writer, 4, message.instance ?? '', INSTANCE_BYTES)
    writeUint(writer, 5, message.sequence ?? 0)
  },
  read(reader) {
    const message: Hello & { instance: string; sequence: number } = {
      type: 'hello',
      version: 0,
      agent: '',
      node: { peerId: '', multiaddrs: [], transfer: '', zone: '' },
      instance: '',
      sequence: 0,
    }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.version = reader.uint(UINT32)
      else if (field === 2) message.agent = reader.string(LIMITS.agentBytes)
      else if (field === 3) message.node = reader.message(nodeAddress.read)
      else if (field === 4) message.instance = reader.string(INSTANCE_BYTES)
      else if (field === 5) message.sequence = reader.uint()
    }
    return message
  },
}

export const swarmJoin: Codec<SwarmJoin> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeUint(writer, 2, message.sizeBytes)
    writeString(writer, 3, message.mediaType, LIMITS.mediaTypeBytes)
    writeBytes(writer, 4, message.chunks, LIMITS.bitFieldBytes)
    writeBool(writer, 5, message.complete)
    writeEach(writer, 6, message.vouchers, LIMITS.vouchers, chunkVoucher.write)
    writeBool(writer, 7, message.reply)
    writeUint(writer, 8, message.freeSlots, UINT32)
  },
  read(reader) {
    const message: Omit<SwarmJoin, 'digest'> & { digest: SwarmJoin['digest'] | '' } = {
      type: 'swarm-join',
      digest: '',
      sizeBytes: 0,
      mediaType: '',
      chunks: new Uint8Array(),
      complete: false,
      vouchers: [],
      reply: false,
      freeSlots: 0,
    }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.digest = readDigest(reader)
      else if (field === 2) message.sizeBytes = reader.uint()
      else if (field === 3) message.mediaType = reader.string(LIMITS.mediaTypeBytes)
      else if (field === 4) message.chunks = reader.bytes(LIMITS.bitFieldBytes)
      else if (field === 5) message.complete = reader.bool()
      else if (field === 6) readInto(reader, message.vouchers, LIMITS.vouchers, chunkVoucher.read)
      else if (field === 7) message.reply = reader.bool()
      else if (field === 8) message.freeSlots = reader.uint(UINT32)
    }
    return { ...message, digest: required(message.digest) }
  },
}

export const swarmRefuse: Codec<SwarmRefuse> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeUint(writer, 2, REFUSE_REASONS.indexOf(message.reason))
    writeAddresses(writer, 3, message.others)
  },
  read(reader) {
    let digest: SwarmRefuse['digest'] | '' = ''
    let reason: SwarmRefuse['reason'] = 'unknown'
    const others: NodeAddress[] = []
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) digest = readDigest(reader)
      // A reason of a later version is a refusal all the same.
      else if (field === 2) reason = REFUSE_REASONS[reader.uint(UINT32)] ?? 'unknown'
      else if (field === 3) readInto(reader, others, LIMITS.addresses, nodeAddress.read)
    }
    return { type: 'swarm-refuse', digest: required(digest), reason, others }
  },
}

export const swarmLeave: Codec<SwarmLeave> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
  },
  read(reader) {
    let digest: SwarmLeave['digest'] | '' = ''
    for (let field = reader.next(); field !== 0; field = reader.next()) if (field === 1) digest = readDigest(reader)
    return { type: 'swarm-leave', digest: required(digest) }
  },
}

export const have: Codec<Have> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeIndices(writer, 2, message.indices)
    writeEach(writer, 3, message.vouchers, LIMITS.vouchers, chunkVoucher.write)
    writeBool(writer, 4, message.complete)
    writeUint(writer, 5, message.freeSlots, UINT32)
  },
  read(reader) {
    let digest: Have['digest'] | '' = ''
    const message: Omit<Have, 'digest'> = { type: 'have', indices: [], vouchers: [], complete: false, freeSlots: 0 }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) digest = readDigest(reader)
      else if (field === 2) readIndices(reader, message.indices)
      else if (field === 3) readInto(reader, message.vouchers, LIMITS.vouchers, chunkVoucher.read)
      else if (field === 4) message.complete = reader.bool()
      else if (field === 5) message.freeSlots = reader.uint(UINT32)
    }
    return { ...message, digest: required(digest) }
  },
}

/** Messages that are about some chunks of a blob and say nothing else. */
function chunksCodec<T extends 'lost' | 'hash-query'>(type: T): Codec<{ type: T } & Pick<Lost, 'digest' | 'indices'>> {
  return {
    write(message, writer) {
      writeDigest(writer, 1, message.digest)
      writeIndices(writer, 2, message.indices)
    },
    read(reader) {
      let digest: Lost['digest'] | '' = ''
      const indices: number[] = []
      for (let field = reader.next(); field !== 0; field = reader.next()) {
        if (field === 1) digest = readDigest(reader)
        else if (field === 2) readIndices(reader, indices)
      }
      return { type, digest: required(digest), indices }
    },
  }
}

export const lost: Codec<Lost> = chunksCodec('lost')
export const hashQuery: Codec<HashQuery> = chunksCodec('hash-query')

export const claim: Codec<Claim> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeIndices(writer, 2, message.indices)
    writeBool(writer, 3, message.active)
  },
  read(reader) {
    let digest: Claim['digest'] | '' = ''
    const indices: number[] = []
    let active = false
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) digest = readDigest(reader)
      else if (field === 2) readIndices(reader, indices)
      else if (field === 3) active = reader.bool()
    }
    return { type: 'claim', digest: required(digest), indices, active }
  },
}

export const tagQuery: Codec<TagQuery> = {
  write(message, writer) {
    writeUint(writer, 1, message.requestId)
    writeString(writer, 2, message.reference, LIMITS.referenceBytes)
  },
  read(reader) {
    const message: TagQuery = { type: 'tag-query', requestId: 0, reference: '' }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.requestId = reader.uint()
      else if (field === 2) message.reference = reader.string(LIMITS.referenceBytes)
    }
    if (message.reference === '') throw new InvalidMessageError('A tag query without a reference')
    return message
  },
}

export const tagKnown: Codec<TagKnown> = {
  write(message, writer) {
    writeUint(writer, 1, message.requestId)
    writeDigest(writer, 2, message.digest)
    writeString(writer, 3, message.mediaType, LIMITS.mediaTypeBytes)
    writeUint(writer, 4, message.sizeBytes)
    writeUint(writer, 5, message.ageMs)
  },
  read(reader) {
    const message: TagKnown = { type: 'tag-known', requestId: 0, digest: '', mediaType: '', sizeBytes: 0, ageMs: 0 }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.requestId = reader.uint()
      else if (field === 2) message.digest = readOptionalDigest(reader)
      else if (field === 3) message.mediaType = reader.string(LIMITS.mediaTypeBytes)
      else if (field === 4) message.sizeBytes = reader.uint()
      else if (field === 5) message.ageMs = reader.uint()
    }
    return message
  },
}
