// Saying to a peer that this node takes part in a swarm, with all it knows about the hashes of the chunks.
import type { ChunkVoucher, ControlChannel, SwarmJoin } from '@shoal/network'

/** Vouchers in one message at most: the codec takes 1024, and with 170 bytes each that is well below its largest. */
const VOUCHERS_PER_MESSAGE = 1000

/** Sends a join; vouchers that do not fit follow as news without chunks. */
export function sendJoin(
  channel: ControlChannel,
  join: Omit<SwarmJoin, 'type' | 'vouchers'>,
  vouchers: readonly ChunkVoucher[],
): void {
  channel.send({ type: 'swarm-join', ...join, vouchers: vouchers.slice(0, VOUCHERS_PER_MESSAGE) })
  const { digest, freeSlots } = join
  for (let from = VOUCHERS_PER_MESSAGE; from < vouchers.length; from += VOUCHERS_PER_MESSAGE) {
    const rest = vouchers.slice(from, from + VOUCHERS_PER_MESSAGE)
    channel.send({ type: 'have', digest, indices: [], vouchers: rest, complete: false, freeSlots })
  }
}
