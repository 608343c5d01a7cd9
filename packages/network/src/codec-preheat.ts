// Protobuf of what a tracker tells agents to bring in ahead of time, and what they report (proto/shoal.proto).
import {
  LIMITS,
  readOptionalDigest,
  UINT32,
  writeDigest,
  writeProse,
  writeString,
  writeUint,
  type Codec,
} from './codec-parts.ts'
import { InvalidMessageError } from './errors.ts'
import type { PreheatCancel, PreheatOrder, PreheatReport } from './messages.ts'

/** The numbers are their places in the lists; 0 stands for none of them. */
const ACTIONS = ['', 'pull', 'pin', 'unpin'] as const
const STATES = ['', 'waiting', 'running', 'done', 'failed'] as const

/** A name by its number; what a later version may add is nothing that this one can act on. */
function named<T extends string>(names: readonly T[], number: number): Exclude<T, ''> {
  const name = names[number]
  if (name === undefined || name === '') throw new InvalidMessageError(`${number} is no known state or action`)
  return name as Exclude<T, ''>
}

export const preheatOrder: Codec<PreheatOrder> = {
  write(message, writer) {
    writeString(writer, 1, message.preheatId, LIMITS.preheatIdBytes)
    writeString(writer, 2, message.image, LIMITS.referenceBytes)
    writeString(writer, 3, message.platform, LIMITS.platformBytes)
    writeUint(writer, 4, ACTIONS.indexOf(message.action), UINT32)
  },
  read(reader) {
    const message = { type: 'preheat-order' as const, preheatId: '', image: '', platform: '' }
    let action = 0
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.preheatId = reader.string(LIMITS.preheatIdBytes)
      else if (field === 2) message.image = reader.string(LIMITS.referenceBytes)
      else if (field === 3) message.platform = reader.string(LIMITS.platformBytes)
      else if (field === 4) action = reader.uint(UINT32)
    }
    return { ...message, action: named(ACTIONS, action) }
  },
}

export const preheatCancel: Codec<PreheatCancel> = {
  write(message, writer) {
    writeString(writer, 1, message.preheatId, LIMITS.preheatIdBytes)
  },
  read(reader) {
    let preheatId = ''
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) preheatId = reader.string(LIMITS.preheatIdBytes)
    }
    return { type: 'preheat-cancel', preheatId }
  },
}

export const preheatReport: Codec<PreheatReport> = {
  write(message, writer) {
    writeString(writer, 1, message.preheatId, LIMITS.preheatIdBytes)
    writeUint(writer, 2, STATES.indexOf(message.state), UINT32)
    writeDigest(writer, 3, message.digest)
    writeUint(writer, 4, message.totalBytes)
    writeUint(writer, 5, message.receivedBytes)
    writeUint(writer, 6, message.fromPeersBytes)
    writeUint(writer, 7, message.fromOriginBytes)
    writeString(writer, 8, message.errorCode, LIMITS.errorCodeBytes)
    writeProse(writer, 9, message.reason, LIMITS.reasonBytes)
  },
  read(reader) {
    const message: Omit<PreheatReport, 'state'> = {
      type: 'preheat-report',
      preheatId: '',
      digest: '',
      totalBytes: 0,
      receivedBytes: 0,
      fromPeersBytes: 0,
      fromOriginBytes: 0,
      errorCode: '',
      reason: '',
    }
    let state = 0
    for (let field = reader.next(); field !== 0; field = reader.next()) {
      if (field === 1) message.preheatId = reader.string(LIMITS.preheatIdBytes)
      else if (field === 2) state = reader.uint(UINT32)
      else if (field === 3) message.digest = readOptionalDigest(reader)
      else if (field === 4) message.totalBytes = reader.uint()
      else if (field === 5) message.receivedBytes = reader.uint()
      else if (field === 6) message.fromPeersBytes = reader.uint()
      else if (field === 7) message.fromOriginBytes = reader.uint()
      else if (field === 8) message.errorCode = reader.string(LIMITS.errorCodeBytes)
      else if (field === 9) message.reason = reader.string(LIMITS.reasonBytes)
    }
    return { ...message, state: named(STATES, state) }
  },
}
