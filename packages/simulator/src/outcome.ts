// What a run comes to: times relative to the ideal, bytes relative to the image, messages.
import type { Links } from './links.ts'
import { idealMs, imageBytes, type Scenario, type TargetName } from './scenario.ts'
import type { VirtualNode } from './virtual-node.ts'

export interface Outcome {
  scenario: string
  /** Nodes whose times count: those that were neither slow nor dying. */
  healthy: number
  /** Of these, how many have the whole image. */
  finished: number
  /** Time of each healthy node that finished, from its own start, relative to the ideal; ascending. */
  times: number[]
  /** Quantiles of the times; Infinity where too few have finished. */
  p50: number
  p99: number
  p999: number
  last: number
  /** Bytes that left the origin, in images. */
  egress: number
  /** Bytes into the zone that got the most, in images; NaN without zones. */
  border: number
  /** Requests for a chunk, for each chunk that came from a peer. */
  requestsPerChunk: number
  /** Control messages for each node and second of the run. */
  messagesPerNodeSecond: number
  /** Messages of the tracker in and out, for each second of the run. */
  trackerMessagesPerSecond: number
  /** Virtual time of the whole run in milliseconds. */
  endMs: number
}

export function measure(
  scenario: Scenario,
  nodes: readonly VirtualNode[],
  links: Links,
  counts: { messages: number; trackerMessages: number; endMs: number },
): Outcome {
  const healthy = nodes.filter((node) => !node.impaired)
  const ideal = idealMs(scenario)
  const times = healthy
    .filter((node) => node.finishedMs >= 0)
    .map((node) => (node.finishedMs - node.startMs) / ideal)
    .sort((a, b) => a - b)
  const at = (share: number) => times[Math.ceil(share * healthy.length) - 1] ?? Infinity
  const image = imageBytes(scenario)
  const seconds = counts.endMs / 1000
  const requests = nodes.reduce((sum, node) => sum + node.requests.count, 0)
  const busy = nodes.reduce((sum, node) => sum + node.uploads.busyCount, 0)
  const zoneBytes = links.zoneIn.slice(0, -1)
  return {
    scenario: scenario.name,
    healthy: healthy.length,
    finished: times.length,
    times,
    p50: at(0.5),
    p99: at(0.99),
    p999: at(0.999),
    last: at(1),
    egress: links.sent[scenario.nodes]! / image,
    border: scenario.zones === undefined ? NaN : Math.max(...zoneBytes) / image,
    requestsPerChunk: requests / Math.max(1, requests - busy),
    messagesPerNodeSecond: counts.messages / scenario.nodes / seconds,
    trackerMessagesPerSecond: counts.trackerMessages / seconds,
    endMs: counts.endMs,
  }
}

/** The measured value that a target is about. */
export function valueOf(outcome: Outcome, name: TargetName): number {
  return name === 'p99.9' ? outcome.p999 : outcome[name]
}
