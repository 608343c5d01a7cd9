// `shoal demo`: shows on one machine what Shoal is for. A registry, a tracker and agents start as processes; an image is
// pushed and pulled through all agents in the same moment; a table tells where the bytes came from.
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { QuantityError, parseQuantity } from '../config/quantities.ts'
import { DemoCluster, type DemoAgent } from '../demo/cluster.ts'
import { makeImage, type DemoImage } from '../demo/image.ts'
import { pullImage, pushImage, readMetric, type PullResult } from '../demo/registry-client.ts'
import { rolloutDisplay } from '../demo/rollout-display.ts'
import { CommandError, EXIT_FAILED, EXIT_OK, UsageError } from '../exit-codes.ts'
import { showDuration, showSize, showTable } from '../people.ts'
import type { Output } from '../program.ts'

export interface DemoOptions {
  agents: number
  image: string
  keep?: boolean
}

const REPOSITORY = 'demo/app'
const TAG = '1.0'
const LOG_TAIL_LINES = 15
const MAX_IMAGE_BYTES = 2 ** 40

function imageSize(text: string): number {
  try {
    const sizeBytes = parseQuantity(text, 'bytes')
    if (sizeBytes >= 1 && sizeBytes <= MAX_IMAGE_BYTES) return sizeBytes
  } catch (error) {
    if (!(error instanceof QuantityError)) throw error
    throw new UsageError(`--image ${error.message}`)
  }
  throw new UsageError('--image must be from 1 B to 1 TiB')
}

/** Pulls through every agent at once. @throws CommandError as soon as one fails */
async function rollOut(
  agents: DemoAgent[],
  image: DemoImage,
  signal: AbortSignal,
  output: Output,
): Promise<PullResult[]> {
  const display = rolloutDisplay(
    agents.map(({ name }) => name),
    image.sizeBytes,
    process.stderr,
    output.err,
  )
  const failed = new AbortController()
  const either = AbortSignal.any([signal, failed.signal])
  try {
    return await Promise.all(
      agents.map(async ({ name, mirrorPort }, index) => {
        try {
          const base = `http://127.0.0.1:${mirrorPort}`
          const result = await pullImage(base, REPOSITORY, TAG, (bytes) => display.received(index, bytes), either)
          if (result.digest !== image.manifestDigest) throw new CommandError('that is not the image which was pushed')
          display.finished(index, result.durationMs)
          return result
        } catch (error) {
          failed.abort()
          throw new CommandError(
            `the pull through ${name} failed: ${error instanceof Error ? error.message : String(error)}`,
          )
        }
      }),
    )
  } finally {
    display.close()
  }
}

/** Where the bytes of the rollout came from, agent by agent and as a whole. */
async function report(cluster: DemoCluster, image: DemoImage, results: PullResult[]): Promise<string> {
  const rows = await Promise.all(
    cluster.agents.map(async ({ name, adminPort }, index) => {
      const metrics = `http://127.0.0.1:${adminPort}/metrics`
      const [fromPeers, fromOrigin] = await Promise.all([
        readMetric(metrics, 'shoal_chunk_bytes_received_total', 'source="peer"'),
        readMetric(metrics, 'shoal_chunk_bytes_received_total', 'source="origin"'),
      ])
      const { durationMs = NaN, verified = 0 } = results[index] ?? {}
      return [name, showDuration(durationMs), showSize(fromPeers), showSize(fromOrigin), `${verified} right`]
    }),
  )
  const originBytes = await readMetric(`${cluster.registryUrl}/metrics`, 'shoal_origin_bytes_sent_total')
  const times = results.map(({ durationMs }) => durationMs)
  const copies = (originBytes / image.sizeBytes).toFixed(2)
  return (
    `${showTable(['AGENT', 'TIME', 'FROM PEERS', 'FROM ORIGIN', 'DIGESTS'], rows)}\n\n` +
    `${results.length} nodes have an image of ${showSize(image.sizeBytes)} after ${showDuration(Math.max(...times))}.\n` +
    `The origin sent ${showSize(originBytes)}: ${copies} times the image, instead of ${results.length} times.\n`
  )
}

function howToPull(cluster: DemoCluster, image: DemoImage): string {
  const [agent] = cluster.agents
  const name = `127.0.0.1:${agent?.mirrorPort}/${REPOSITORY}:${TAG}`
  return (
    `\nThe cluster stays up until Ctrl-C. Pull from it:\n\n  docker pull ${name}\n` +
    (image.isRunnable ? `  docker run --rm ${name}\n` : '') +
    `\nLook at it:\n\n  shoal status --admin http://127.0.0.1:${agent?.adminPort}\n` +
    `  with a browser: http://127.0.0.1:${cluster.trackerHttpPort}/ (tracker), http://127.0.0.1:${agent?.adminPort}/ (first agent)\n` +
    `  logs and data: ${cluster.directory}\n`
  )
}

async function runDemo(cluster: DemoCluster, options: DemoOptions, signal: AbortSignal, output: Output): Promise<void> {
  const bigLayerBytes = imageSize(options.image)
  output.err(`Starting a registry, a tracker and ${options.agents} agents\n`)
  await cluster.start(options.agents, signal)

  const layers = join(cluster.directory, 'layers')
  await mkdir(layers)
  const image = await makeImage(layers, bigLayerBytes)
  output.err(`Pushing ${REPOSITORY}:${TAG}, ${showSize(image.sizeBytes)}\n`)
  await pushImage(cluster.registryUrl, REPOSITORY, TAG, image, signal)
  await rm(layers, { recursive: true })

  output.err(`Pulling it through all ${options.agents} agents at once\n`)
  const results = await rollOut(cluster.agents, image, signal, output)
  output.out(`\n${await report(cluster, image, results)}`)

  if (options.keep) {
    output.out(howToPull(cluster, image))
    await interrupted(signal)
  }
}

async function interrupted(signal: AbortSignal): Promise<void> {
  // A signal alone does not keep a process alive.
  const alive = setInterval(() => {}, 60_000)
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
  clearInterval(alive)
}

export async function demoCommand(options: DemoOptions, output: Output): Promise<number> {
  imageSize(options.image)
  const interrupt = new AbortController()
  const onSignal = () => interrupt.abort()
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  process.on('SIGHUP', onSignal)
  const cluster = await DemoCluster.create()
  try {
    await runDemo(cluster, options, interrupt.signal, output)
    return EXIT_OK
  } catch (error) {
    if (interrupt.signal.aborted) {
      output.err('Interrupted\n')
      return EXIT_FAILED
    }
    output.err(`${await cluster.processes.tails(LOG_TAIL_LINES)}\n---\n`)
    throw error
  } finally {
    output.err('Stopping all of it\n')
    await cluster.close()
    process.off('SIGINT', onSignal)
    process.off('SIGTERM', onSignal)
    process.off('SIGHUP', onSignal)
  }
}
