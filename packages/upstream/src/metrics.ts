// What is counted about origins.
import { Counter, Histogram, type Registry } from 'prom-client'

/** Clients may name any number of registries; the time series stay bounded. */
const MAX_HOSTS = 200
const DURATION_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

export class UpstreamMetrics {
  readonly #requests: Counter<'host' | 'status'>
  readonly #durations: Histogram<'host'>
  readonly #bytes: Counter<'host'>
  readonly #hosts = new Set<string>()

  constructor(registry: Registry) {
    const registers = [registry]
    this.#requests = new Counter({
      name: 'shoal_origin_requests_total',
      help: 'Requests sent to origin registries, by HTTP status or kind of failure',
      labelNames: ['host', 'status'],
      registers,
    })
    this.#durations = new Histogram({
      name: 'shoal_origin_request_duration_seconds',
      help: 'Time from a request to an origin registry to the headers of its answer',
      labelNames: ['host'],
      buckets: DURATION_BUCKETS,
      registers,
    })
    this.#bytes = new Counter({
      name: 'shoal_origin_bytes_received_total',
      help: 'Bytes of bodies received from origin registries',
      labelNames: ['host'],
      registers,
    })
  }

  /** @param status HTTP status or the code of a failure */
  request(host: string, status: string, seconds: number): void {
    const label = this.#label(host)
    this.#requests.inc({ host: label, status })
    this.#durations.observe({ host: label }, seconds)
  }

  bytes(host: string, count: number): void {
    this.#bytes.inc({ host: this.#label(host) }, count)
  }

  #label(host: string): string {
    if (this.#hosts.has(host)) return host
    if (this.#hosts.size >= MAX_HOSTS) return 'other'
    this.#hosts.add(host)
    return host
  }
}
