// Saying to a peer which chunks this node has, with what it knows about their hashes: in as many messages as that takes.
import type { ChunkVoucher, ControlChannel, Have, SwarmJoin } from '@shoal/network'

/**
 * Vouchers in one message at most: the codec takes 1024, and the largest message is 1 MiB. Others have made some of them, as
 * long as they liked, and besides them chunks have to find room.
 */
const VOUCHERS_PER_MESSAGE = 1000
const VOUCHER_BYTES_PER_MESSAGE = 512 * 1024
/** Half of what the codec takes. */
const INDICES_PER_MESSAGE = 32_768
/** The hash, and an index of a blob as large as the store takes. */
const BYTES_PER_CHUNK = 35
/** Signer, signature and what frames them, at most. */
const BYTES_PER_VOUCHER = 220
/** As the codec has it. */
const MEDIA_TYPE_BYTES = 255

/** Sends a join; vouchers that do not fit follow as news without chunks. */
export function sendJoin(
  channel: ControlChannel,
  join: Omit<SwarmJoin, 'type' | 'vouchers'>,
  vouchers: readonly ChunkVoucher[],
): void {
  const parts = inMessages(vouchers)
  const first = isAlone(parts[0]) ? [] : (parts.shift() ?? [])
  const mediaType = isTellable(join.mediaType) ? join.mediaType : ''
  channel.send({ type: 'swarm-join', ...join, mediaType, vouchers: first })
  sendVouchers(channel, join, parts)
}

/** Sends news of chunks. Hashes that do not fit go first, as news without chunks. */
export function sendHave(channel: ControlChannel, have: Omit<Have, 'type'>): void {
  const { indices, complete } = have
  const parts = inMessages(have.vouchers)
  let vouchers = isAlone(parts.at(-1)) ? [] : (parts.pop() ?? [])
  sendVouchers(channel, have, parts)
  let from = 0
  for (; indices.length - from > INDICES_PER_MESSAGE; from += INDICES_PER_MESSAGE) {
    const some = indices.slice(from, from + INDICES_PER_MESSAGE)
    channel.send({ type: 'have', ...have, indices: some, vouchers, complete: false })
    vouchers = []
  }
  channel.send({ type: 'have', ...have, indices: indices.slice(from), vouchers, complete })
}

/** Media types come from registries, and may be longer than a message may say. */
export function isTellable(mediaType: string): boolean {
  return Buffer.byteLength(mediaType) <= MEDIA_TYPE_BYTES
}

function sendVouchers(
  channel: ControlChannel,
  { digest, freeSlots }: Pick<Have, 'digest' | 'freeSlots'>,
  parts: ChunkVoucher[][],
): void {
  for (const vouchers of parts)
    channel.send({ type: 'have', digest, indices: [], vouchers, complete: false, freeSlots })
}

function inMessages(vouchers: readonly ChunkVoucher[]): ChunkVoucher[][] {
  const parts: ChunkVoucher[][] = []
  let last: ChunkVoucher[] = []
  let room = 0
  for (const voucher of vouchers) {
    const bytes = bytesOf(voucher)
    if (bytes > room || last.length === VOUCHERS_PER_MESSAGE) {
      parts.push((last = []))
      room = VOUCHER_BYTES_PER_MESSAGE
    }
    last.push(voucher)
    room -= bytes
  }
  return parts
}

/** A voucher so long that nothing else is said together with it. */
function isAlone(part: ChunkVoucher[] | undefined): boolean {
  return part?.[0] !== undefined && bytesOf(part[0]) > VOUCHER_BYTES_PER_MESSAGE
}

function bytesOf({ indices }: ChunkVoucher): number {
  return BYTES_PER_VOUCHER + indices.length * BYTES_PER_CHUNK
}
