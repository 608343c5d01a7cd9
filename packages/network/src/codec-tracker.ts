// Protobuf of the messages between agent and tracker (proto/shoal.proto).
import type { Digest } from '@shoal/oci'
import {
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
  writeProse,
  writeString,
  writeUint,
  type Codec,
} from './codec-parts.ts'
import { InvalidMessageError } from './errors.ts'
import type {
  Holding,
  LeaseDone,
  LeaseGrant,
  LeaseProgress,
  NodeAddress,
  PeerReport,
  TagAnswer,
  TagAsk,
  TagLookup,
  TagResult,
  TrackerHoldings,
  TrackerJoin,
  TrackerLeave,
  TrackerPeers,
  TrackerPeersWanted,
  TrackerProgress,
} from './messages.ts'

/** A message while it is being read: its digest may still be to come. */
type Draft<M> = Omit<M, 'digest'> & { digest: Digest | '' }

export const trackerJoin: Codec<TrackerJoin> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeUint(writer, 2, message.sizeBytes)
    writeString(writer, 3, message.originHost, LIMITS.hostBytes)
    writeBytes(writer, 4, message.chunks, LIMITS.bitFieldBytes)
    writeBool(writer, 5, message.complete)
    writeUint(writer, 6, message.leaseCredit, UINT32)
  },
  read(reader) {
    const message: Draft<TrackerJoin> = {
      type: 'tracker-join',
      digest: '',
      sizeBytes: 0,
      originHost: '',
      chunks: new Uint8Array(),
      complete: false,
      leaseCredit: 0,
    }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.digest = readDigest(reader)
      else if (field === 2) message.sizeBytes = reader.uint()
      else if (field === 3) message.originHost = reader.string(LIMITS.hostBytes)
      else if (field === 4) message.chunks = reader.bytes(LIMITS.bitFieldBytes)
      else if (field === 5) message.complete = reader.bool()
      else if (field === 6) message.leaseCredit = reader.uint(UINT32)
    }
    return { ...message, digest: required(message.digest) }
  },
}

const holding: Codec<Holding> = {
  write({ digest, sizeBytes }, writer) {
    writeDigest(writer, 1, digest)
    writeUint(writer, 2, sizeBytes)
  },
  read(reader) {
    let digest: Digest | '' = ''
    let sizeBytes = 0
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) digest = readDigest(reader)
      else if (field === 2) sizeBytes = reader.uint()
    }
    return { digest: required(digest), sizeBytes }
  },
}

export const trackerHoldings: Codec<TrackerHoldings> = {
  write(message, writer) {
    writeEach(writer, 1, message.blobs, LIMITS.holdings, holding.write)
  },
  read(reader) {
    const message: TrackerHoldings = { type: 'tracker-holdings', blobs: [] }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) readInto(reader, message.blobs, LIMITS.holdings, holding.read)
    }
    return message
  },
}

export const trackerLeave: Codec<TrackerLeave> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
  },
  read(reader) {
    let digest: Digest | '' = ''
    for (let field = reader.next(); field !== 0; field = reader.next()) if (field === 1) digest = readDigest(reader)
    return { type: 'tracker-leave', digest: required(digest) }
  },
}

export const trackerPeersWanted: Codec<TrackerPeersWanted> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    if (message.exclude.length > LIMITS.peerIds) throw new InvalidMessageError('Too many peers to leave out')
    for (const peerId of message.exclude) writeString(writer, 2, peerId, LIMITS.peerIdBytes)
  },
  read(reader) {
    let digest: Digest | '' = ''
    const exclude: string[] = []
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) digest = readDigest(reader)
      else if (field === 2) {
        if (exclude.length >= LIMITS.peerIds) throw new InvalidMessageError('Too many peers to leave out')
        exclude.push(reader.string(LIMITS.peerIdBytes))
      }
    }
    return { type: 'tracker-peers-wanted', digest: required(digest), exclude }
  },
}

export const trackerPeers: Codec<TrackerPeers> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeUint(writer, 2, message.sizeBytes)
    writeUint(writer, 3, message.members, UINT32)
    writeAddresses(writer, 4, message.peers)
  },
  read(reader) {
    let digest: Digest | '' = ''
    let sizeBytes = 0
    let members = 0
    const peers: NodeAddress[] = []
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) digest = readDigest(reader)
      else if (field === 2) sizeBytes = reader.uint()
      else if (field === 3) members = reader.uint(UINT32)
      else if (field === 4) readInto(reader, peers, LIMITS.addresses, nodeAddress.read)
    }
    return { type: 'tracker-peers', digest: required(digest), sizeBytes, members, peers }
  },
}

export const leaseGrant: Codec<LeaseGrant> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeUint(writer, 2, message.leaseId)
    writeUint(writer, 3, message.first, LIMITS.index)
    writeUint(writer, 4, message.count, LIMITS.index)
    writeUint(writer, 5, message.idleLimitMs, UINT32)
    if (message.source !== undefined) writer.writeMessage(6, nodeAddress.write, message.source)
  },
  read(reader) {
    const message: Draft<LeaseGrant> = {
      type: 'lease-grant',
      digest: '',
      leaseId: 0,
      first: 0,
      count: 0,
      idleLimitMs: 0,
      source: undefined,
    }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.digest = readDigest(reader)
      else if (field === 2) message.leaseId = reader.uint()
      else if (field === 3) message.first = reader.uint(LIMITS.index)
      else if (field === 4) message.count = reader.uint(LIMITS.index)
      else if (field === 5) message.idleLimitMs = reader.uint(UINT32)
      else if (field === 6) message.source = reader.message(nodeAddress.read)
    }
    return { ...message, digest: required(message.digest) }
  },
}

export const leaseProgress: Codec<LeaseProgress> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeUint(writer, 2, message.leaseId)
    writeUint(writer, 3, message.receivedBytes)
  },
  read(reader) {
    const message: Draft<LeaseProgress> = { type: 'lease-progress', digest: '', leaseId: 0, receivedBytes: 0 }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.digest = readDigest(reader)
      else if (field === 2) message.leaseId = reader.uint()
      else if (field === 3) message.receivedBytes = reader.uint()
    }
    return { ...message, digest: required(message.digest) }
  },
}

export const leaseDone: Codec<LeaseDone> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeUint(writer, 2, message.leaseId)
    writeIndices(writer, 3, message.fetched)
    writeUint(writer, 4, message.originBackoffMs, UINT32)
    writeBool(writer, 5, message.failed)
  },
  read(reader) {
    const message: Draft<LeaseDone> = {
      type: 'lease-done',
      digest: '',
      leaseId: 0,
      fetched: [],
      originBackoffMs: 0,
      failed: false,
    }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.digest = readDigest(reader)
      else if (field === 2) message.leaseId = reader.uint()
      else if (field === 3) readIndices(reader, message.fetched)
      else if (field === 4) message.originBackoffMs = reader.uint(UINT32)
      else if (field === 5) message.failed = reader.bool()
    }
    return { ...message, digest: required(message.digest) }
  },
}

export const trackerProgress: Codec<TrackerProgress> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeBytes(writer, 2, message.chunks, LIMITS.bitFieldBytes)
    writeBool(writer, 3, message.complete)
    writeUint(writer, 4, message.leaseCredit, UINT32)
  },
  read(reader) {
    const message: Draft<TrackerProgress> = {
      type: 'tracker-progress',
      digest: '',
      chunks: new Uint8Array(),
      complete: false,
      leaseCredit: 0,
    }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.digest = readDigest(reader)
      else if (field === 2) message.chunks = reader.bytes(LIMITS.bitFieldBytes)
      else if (field === 3) message.complete = reader.bool()
      else if (field === 4) message.leaseCredit = reader.uint(UINT32)
    }
    return { ...message, digest: required(message.digest) }
  },
}

function askCodec<T extends 'tag-ask' | 'tag-lookup'>(
  type: T,
): Codec<{ type: T } & Pick<TagAsk, 'requestId' | 'reference'>> {
  return {
    write(message, writer) {
      writeUint(writer, 1, message.requestId)
      writeString(writer, 2, message.reference, LIMITS.referenceBytes)
    },
    read(reader) {
      const message = { type, requestId: 0, reference: '' }
      for (let field = reader.next(); field !== 0; field = reader.next()) {
        if (field === 1) message.requestId = reader.uint()
        else if (field === 2) message.reference = reader.string(LIMITS.referenceBytes)
      }
      if (message.reference === '') throw new InvalidMessageError('A question for a tag without a reference')
      return message
    },
  }
}

export const tagAsk: Codec<TagAsk> = askCodec('tag-ask')
export const tagLookup: Codec<TagLookup> = askCodec('tag-lookup')

export const tagResult: Codec<TagResult> = {
  write(message, writer) {
    writeUint(writer, 1, message.requestId)
    writeString(writer, 2, message.reference, LIMITS.referenceBytes)
    writeDigest(writer, 3, message.digest)
    writeString(writer, 4, message.mediaType, LIMITS.mediaTypeBytes)
    writeUint(writer, 5, message.sizeBytes)
    writeString(writer, 6, message.errorCode, LIMITS.errorCodeBytes)
  },
  read(reader) {
    const message: TagResult = {
      type: 'tag-result',
      requestId: 0,
      reference: '',
      digest: '',
      mediaType: '',
      sizeBytes: 0,
      errorCode: '',
    }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.requestId = reader.uint()
      else if (field === 2) message.reference = reader.string(LIMITS.referenceBytes)
      else if (field === 3) message.digest = readOptionalDigest(reader)
      else if (field === 4) message.mediaType = reader.string(LIMITS.mediaTypeBytes)
      else if (field === 5) message.sizeBytes = reader.uint()
      else if (field === 6) message.errorCode = reader.string(LIMITS.errorCodeBytes)
    }
    return message
  },
}

export const tagAnswer: Codec<TagAnswer> = {
  write(message, writer) {
    writeUint(writer, 1, message.requestId)
    writeString(writer, 2, message.reference, LIMITS.referenceBytes)
    writeDigest(writer, 3, message.digest)
    writeString(writer, 4, message.mediaType, LIMITS.mediaTypeBytes)
    writeUint(writer, 5, message.sizeBytes)
    writeBool(writer, 6, message.stale)
    writeString(writer, 7, message.errorCode, LIMITS.errorCodeBytes)
  },
  read(reader) {
    const message: TagAnswer = {
      type: 'tag-answer',
      requestId: 0,
      reference: '',
      digest: '',
      mediaType: '',
      sizeBytes: 0,
      stale: false,
      errorCode: '',
    }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.requestId = reader.uint()
      else if (field === 2) message.reference = reader.string(LIMITS.referenceBytes)
      else if (field === 3) message.digest = readOptionalDigest(reader)
      else if (field === 4) message.mediaType = reader.string(LIMITS.mediaTypeBytes)
      else if (field === 5) message.sizeBytes = reader.uint()
      else if (field === 6) message.stale = reader.bool()
      else if (field === 7) message.errorCode = reader.string(LIMITS.errorCodeBytes)
    }
    return message
  },
}

export const peerReport: Codec<PeerReport> = {
  write(message, writer) {
    writeDigest(writer, 1, message.digest)
    writeString(writer, 2, message.peerId, LIMITS.peerIdBytes)
    writeProse(writer, 3, message.reason, LIMITS.reasonBytes)
  },
  read(reader) {
    const message: Draft<PeerReport> = { type: 'peer-report', digest: '', peerId: '', reason: '' }
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.digest = readDigest(reader)
      else if (field === 2) message.peerId = reader.string(LIMITS.peerIdBytes)
      else if (field === 3) message.reason = reader.string(LIMITS.reasonBytes)
    }
    return { ...message, digest: required(message.digest) }
  },
}
