// `shoal preheat`: orders an image for many nodes at a tracker, and shows how far they are.
import { setTimeout as delay } from 'node:timers/promises'
import { ApiClient, type ApiNames, type ApiOptions } from '../api-client.ts'
import { CommandError, EXIT_OK } from '../exit-codes.ts'
import { plainText, showSize, showTable } from '../people.ts'
import type { Output } from '../program.ts'
import { checkedImage, checkedPlatform } from './pull.ts'

export interface PreheatOptions extends ApiOptions {
  tracker: string
  zone?: string
  /** Percent. */
  nodes: number
  platform?: string
  pin?: boolean
  unpin?: boolean
  wait: boolean
}

/** Answer of `/api/v1/preheats/<id>`. */
interface PreheatStatus {
  id: string
  state: 'running' | 'done' | 'failed' | 'cancelled'
  counts: { nodes: number; waiting: number; running: number; done: number; failed: number }
  totalBytes: number
  receivedBytes: number
  fromPeersBytes: number
  fromOriginBytes: number
  nodes: { peerId: string; zone: string; state: string; reason: string }[]
}

const POLL_MS = 1_000
/** Without these it is no answer of a tracker. */
const KEYS = ['counts', 'nodes']
/** The tracker may be restarting; it knows nothing of the preheat then, and says so. */
const TRACKER: ApiNames = {
  who: 'tracker',
  option: '--tracker or SHOAL_TRACKER_URL',
  example: 'http://127.0.0.1:7711',
}

function line({ counts, totalBytes, receivedBytes }: PreheatStatus): string {
  const percent =
    totalBytes > 0 ? ` ${Math.floor((receivedBytes / totalBytes) * 100)} % of ${showSize(totalBytes)}` : ''
  const { nodes, waiting, running, done, failed } = counts
  return `${nodes} nodes: ${done} done, ${running} running, ${waiting} waiting, ${failed} failed.${percent}\n`
}

function outcome({ counts, fromPeersBytes, fromOriginBytes }: PreheatStatus, isUnpin: boolean): string {
  const nodes = `${counts.done} of ${counts.nodes} nodes`
  // Nothing was pulled, and whether the image was there at all is not told.
  if (isUnpin) return `may be evicted on ${nodes}`
  const origin = `${showSize(fromOriginBytes)} from the origin`
  return `is on ${nodes}: ${showSize(fromPeersBytes)} came from peers, ${origin}`
}

/** Ends with 1 when any node failed. A preheat goes on when the command is interrupted. */
export async function preheatCommand(image: string, options: PreheatOptions, output: Output): Promise<number> {
  const name = checkedImage(image)
  const api = new ApiClient(options.tracker, TRACKER, options)
  const body = {
    image: name,
    nodesPercent: options.nodes,
    action: options.unpin === true ? 'unpin' : options.pin === true ? 'pin' : 'pull',
    ...(options.zone === undefined ? {} : { zone: options.zone }),
    ...(options.platform === undefined ? {} : { platform: checkedPlatform(options.platform) }),
  }
  let status = (await api.json('api/v1/preheats', { method: 'POST', body }, KEYS)) as PreheatStatus
  if (status.counts.nodes === 0) {
    throw new CommandError(
      `the tracker knows of no node${options.zone === undefined ? '' : ` in zone ${options.zone}`}: are agents connected?`,
    )
  }
  if (!options.wait) {
    output.out(`${status.id}\n`)
    return EXIT_OK
  }
  let shown = ''
  for (;;) {
    if (line(status) !== shown) output.err((shown = line(status)))
    if (status.state !== 'running') break
    await delay(POLL_MS)
    status = (await api.json(`api/v1/preheats/${status.id}`, { method: 'GET' }, KEYS)) as PreheatStatus
  }
  output.out(`${name} ${outcome(status, options.unpin === true)}\n`)
  if (status.state === 'done') return EXIT_OK
  const failed = status.nodes.filter(({ state }) => state === 'failed')
  const rows = failed.map(({ peerId, zone, reason }) => [peerId, zone, reason].map(plainText))
  throw new CommandError(`the preheat has ${status.state}\n${showTable(['NODE', 'ZONE', 'WHY'], rows)}`)
}
