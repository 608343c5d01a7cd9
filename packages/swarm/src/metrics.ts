// Counters of the swarm room, by the names that DESIGN fixes.
import { countByPeer } from '@shoal/network'
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'

/** Why a peer was given up for a while; a label in metrics. */
export type GivenUpReason =
  /** Its chunks do not come. */
  | 'undelivered'
  /** It only says busy: it is not counted on any more, though it is still asked. */
  | 'busy'
  /** It says that it has chunks, and has not got them. */
  | 'missing'
  /** It says that it has chunks whose hash nobody knows, and tells none. */
  | 'unvouched'
  /** It sent bytes that do not match, and it is not clear yet who is at fault. */
  | 'disputed'

export interface SwarmMetrics {
  /** Chunk bytes that were checked and kept, by where they came from. */
  received: Counter<'source'>
  /** Chunk bytes that came from peers of other zones; counted in `received`, too. */
  crossed: Counter
  /** Chunks that were refused, by reason: `hash`, `voucher`, `digest`. */
  rejected: Counter<'reason'>
  active: Gauge
  busy: Counter<'side'>
  /** Requests to peers that ended without a chunk, by reason. */
  failed: Counter<'reason'>
  /** A peer was given up for a while: counted by reason, and by its name. */
  givenUp: (peerId: string, reason: GivenUpReason) => void
  chunkSeconds: Histogram
  runSeconds: Histogram
  downloadSeconds: Histogram<'outcome'>
}

/** Registers the metrics of one swarm; call it once for each registry. */
export function createSwarmMetrics(registry: Registry): SwarmMetrics {
  const registers = [registry]
  const givenUp = new Counter({
    name: 'shoal_peers_given_up_total',
    help: 'Times that a peer was left alone for a while because it did not deliver, by reason.',
    labelNames: ['reason'],
    registers,
  })
  const givenUpByPeer = countByPeer(
    registry,
    'shoal_peer_given_up',
    'Times that a peer was left alone for a while because it did not deliver, by peer and reason; the last 100.',
  )
  const metrics: SwarmMetrics = {
    givenUp: (peerId, reason) => {
      givenUp.inc({ reason })
      givenUpByPeer(peerId, reason)
    },
    received: new Counter({
      name: 'shoal_chunk_bytes_received_total',
      help: 'Bytes of chunks that were checked and kept, by source.',
      labelNames: ['source'],
      registers,
    }),
    crossed: new Counter({
      name: 'shoal_chunk_bytes_from_other_zones_total',
      help: 'Bytes of chunks that came from peers of other zones.',
      registers,
    }),
    rejected: new Counter({
      name: 'shoal_chunks_rejected_total',
      help: 'Chunks, vouchers and blobs that were refused because they did not match, by reason.',
      labelNames: ['reason'],
      registers,
    }),
    active: new Gauge({ name: 'shoal_downloads_active', help: 'Blobs that are being downloaded.', registers }),
    busy: new Counter({
      name: 'shoal_chunk_busy_total',
      help: 'Requests answered busy: by this node (`sent`) or to it (`received`).',
      labelNames: ['side'],
      registers,
    }),
    failed: new Counter({
      name: 'shoal_chunk_requests_failed_total',
      help: 'Chunk requests to peers that gave no chunk, by reason.',
      labelNames: ['reason'],
      registers,
    }),
    chunkSeconds: new Histogram({
      name: 'shoal_chunk_fetch_seconds',
      help: 'Time from the request for a chunk at a peer until it was kept.',
      buckets: [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      registers,
    }),
    runSeconds: new Histogram({
      name: 'shoal_origin_run_seconds',
      help: 'Time from a lease (or claim) until its run of chunks had come from the origin.',
      buckets: [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      registers,
    }),
    downloadSeconds: new Histogram({
      name: 'shoal_download_seconds',
      help: 'Time from the first request for a blob until it was whole or had failed.',
      labelNames: ['outcome'],
      buckets: [0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320],
      registers,
    }),
  }
  for (const source of ['peer', 'origin']) metrics.received.inc({ source }, 0)
  for (const reason of ['hash', 'voucher', 'digest']) metrics.rejected.inc({ reason }, 0)
  return metrics
}
