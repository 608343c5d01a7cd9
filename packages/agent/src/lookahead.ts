// What a client will ask for next: as soon as an agent hands out the manifest of an image, it starts on the layers that
// the manifest names. Runtimes ask for three or so at a time, and each layer's first question to the swarm costs time.
import { blobsOf, isForeignLayer, type Digest } from '@shoal/oci'
import type { RepositoryTarget } from '@shoal/upstream'
import type { Logger } from 'pino'
import { Counter, type Registry } from 'prom-client'
import { unlessAborted } from './aborting.ts'
import type { Content, ManifestContent } from './content.ts'
import type { Requester } from './origin-sources.ts'

/** Images at once; of more, nothing is fetched before it is asked for. */
const MAX_IMAGES = 16
/** Layers of one image at once. */
const MAX_LAYERS_AT_ONCE = 4
/**
 * How long after the manifest, or after the last blob that it had, a client may be silent before it is taken not to want
 * the rest. Who only looks at an image (`skopeo inspect`, a scanner) costs no more than this.
 */
const PATIENCE_MS = 5_000

export interface LookaheadOptions {
  content: Pick<Content, 'blob' | 'isStored'>
  /** Bytes of one image's layers that are fetched before anybody asks for them; 0 turns it off. */
  limitBytes: number
  /** How long a client may be silent, in milliseconds. @default 5000 */
  patienceMs?: number
  registry: Registry
  logger: Logger
}

/** An image whose layers are being fetched. */
interface Run {
  layers: Set<Digest>
  stop: AbortController
  /** Blobs of it that clients are getting now. */
  clients: number
  /** Ends it, while nobody gets anything of it. */
  patience: NodeJS.Timeout | undefined
}

/** Layers that are fetched ahead of the clients. */
export class Lookahead {
  readonly #options: LookaheadOptions
  /** By what became of them; `stopped` when nobody came for the image. */
  readonly #layers: Counter<'outcome'>
  readonly #runs = new Map<Digest, Run>()

  constructor(options: LookaheadOptions) {
    this.#options = options
    this.#layers = new Counter({
      name: 'shoal_lookahead_layers_total',
      help: 'Layers that were to be fetched before a client asked for them, by outcome.',
      labelNames: ['outcome'],
      registers: [options.registry],
    })
  }

  /** A client has got this manifest and may read what it names with the requester's rights. Never throws. */
  begin(target: RepositoryTarget, manifest: ManifestContent, requester: Requester): void {
    const { content, limitBytes } = this.#options
    if (limitBytes === 0 || this.#runs.has(manifest.digest) || this.#runs.size >= MAX_IMAGES) return
    const { layers, within } = namedBy(manifest, limitBytes)
    const wanted = within.filter((digest) => !content.isStored(digest))
    if (wanted.length === 0) return
    const stop = new AbortController()
    const run: Run = { layers, stop, clients: 0, patience: undefined }
    this.#expect(run)
    this.#runs.set(manifest.digest, run)
    const next = wanted.values()
    const work = async (): Promise<void> => {
      for (const digest of next) await this.#fetch(target, digest, requester, stop.signal)
    }
    const end = (): void => {
      clearTimeout(run.patience)
      this.#runs.delete(manifest.digest)
    }
    Promise.all(Array.from({ length: MAX_LAYERS_AT_ONCE }, work)).then(end, end)
  }

  /** A client gets this blob. Gives back what is to be called, any number of times, when it has it or has left. */
  wanted(digest: Digest): () => void {
    const runs = [...this.#runs.values()].filter(({ layers }) => layers.has(digest))
    for (const run of runs) {
      run.clients++
      clearTimeout(run.patience)
    }
    return () => {
      for (const run of runs.splice(0)) {
        if (--run.clients === 0) this.#expect(run)
      }
    }
  }

  close(): void {
    for (const { stop } of this.#runs.values()) stop.abort()
  }

  /** Gives clients a while to ask for something of it. */
  #expect(run: Run): void {
    run.patience = setTimeout(() => run.stop.abort(), this.#options.patienceMs ?? PATIENCE_MS).unref()
  }

  async #fetch(target: RepositoryTarget, digest: Digest, requester: Requester, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return
    const { content, logger } = this.#options
    try {
      const blob = await content.blob(target, digest, requester, signal)
      try {
        if (blob.download === undefined) return
        await unlessAborted(blob.download.done, signal)
        this.#layers.inc({ outcome: 'fetched' })
      } finally {
        blob.release()
      }
    } catch (error) {
      this.#layers.inc({ outcome: signal.aborted ? 'stopped' : 'failed' })
      // Whoever asks for the layer is told; here nobody did.
      logger.debug({ err: error, digest }, 'a layer was not fetched ahead')
    }
  }
}

/** Everything that a client of this manifest may ask for, and the layers, in order, that are within the limit. */
function namedBy({ parsed }: ManifestContent, limitBytes: number): { layers: Set<Digest>; within: Digest[] } {
  const layers = new Set<Digest>()
  const within: Digest[] = []
  let bytes = 0
  // Of what is not an image that is understood here its client will say what it wants.
  if (parsed === undefined || parsed.kind === 'index') return { layers, within }
  for (const layer of blobsOf(parsed)) {
    if (isForeignLayer(layer) || layers.has(layer.digest)) continue
    layers.add(layer.digest)
    bytes += layer.size
    if (bytes <= limitBytes) within.push(layer.digest)
  }
  return { layers, within }
}
