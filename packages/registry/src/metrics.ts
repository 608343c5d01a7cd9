// Counters of the /v2/ API. The names belong to whoever serves it (DESIGN section 8), so they are passed in.
import { Counter, Histogram, type Registry } from 'prom-client'

export interface RegistryMetricsOptions {
  registry: Registry
  /** Name of the counter of answers with labels route and status, such as `shoal_mirror_requests_total`. */
  requestsName: string
  /** Name of the counter of content bytes sent, such as `shoal_mirror_bytes_served_total`. */
  bytesName: string
  /** Name of the histogram of seconds to the first byte of an answer, with label route. Left out: not measured. */
  firstByteName?: string
  /** Name of the counter of content bytes received by pushes. Left out: not counted. */
  bytesReceivedName?: string
}

export interface RegistryMetrics {
  request(route: string, status: number): void
  bytesSent(count: number): void
  bytesReceived(count: number): void
  firstByte(route: string, seconds: number): void
}

/** Registers the metrics; once for each prom-client Registry. */
export function createRegistryMetrics(options: RegistryMetricsOptions): RegistryMetrics {
  const registers = [options.registry]
  const requests = new Counter({
    name: options.requestsName,
    help: 'Answers of the /v2/ API by route and HTTP status.',
    labelNames: ['route', 'status'] as const,
    registers,
  })
  const sent = new Counter({ name: options.bytesName, help: 'Bytes of manifests and blobs sent.', registers })
  const received =
    options.bytesReceivedName === undefined
      ? undefined
      : new Counter({ name: options.bytesReceivedName, help: 'Bytes of manifests and blobs received.', registers })
  const firstByte =
    options.firstByteName === undefined
      ? undefined
      : new Histogram({
          name: options.firstByteName,
          help: 'Seconds from a request of the /v2/ API to the first byte of its answer.',
          labelNames: ['route'] as const,
          buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
          registers,
        })
  return {
    request: (route, status) => requests.inc({ route, status }),
    bytesSent: (count) => sent.inc(count),
    bytesReceived: (count) => received?.inc(count),
    firstByte: (route, seconds) => firstByte?.observe({ route }, seconds),
  }
}
