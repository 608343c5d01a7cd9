// Opens a store: lock, index, reconciliation with the files, and the second source.
import { mkdir } from 'node:fs/promises'
import { pino, type Logger } from 'pino'
import type { Registry } from 'prom-client'
import { ChunkSyncer } from './chunk-syncer.ts'
import { asStoreError } from './errors.ts'
import { ForeignContent } from './foreign-content.ts'
import { InlineHashService, ThreadHashService, type HashService } from './hash-service.ts'
import { LevelStore } from './level-store.ts'
import { reconcile } from './reconcile.ts'
import type { Store, StoreOptions } from './store.ts'
import { StoreIndex } from './store-index.ts'
import { StoreLayout } from './store-layout.ts'

export interface OpenStoreOptions extends StoreOptions {
  /** @default silent */
  logger?: Logger
  /** Where the metrics of the store are registered. @default nowhere */
  metrics?: Registry
  /**
   * Where hashing happens: in a thread of its own, or on the main thread, which then stands still for up to 6 ms.
   * @default 'thread'
   */
  hashing?: 'thread' | 'inline'
}

/**
 * Opens the store in a directory, which only one process may have open.
 * @throws StoreLockedError when another one has it; StoreFailedError, StoreFullError when the disk is the cause
 */
export async function openStore(options: OpenStoreOptions): Promise<Store> {
  return openLevelStore(options)
}

/** The same, with what only the tests of this room need. */
export async function openLevelStore(options: OpenStoreOptions): Promise<LevelStore> {
  const logger = options.logger ?? pino({ level: 'silent' })
  const layout = new StoreLayout(options.directory)
  try {
    await mkdir(layout.blobs, { recursive: true })
    await mkdir(layout.partial, { recursive: true })
  } catch (error) {
    throw asStoreError(error, `opening the store ${options.directory}`)
  }
  const index = await StoreIndex.open(layout.index, logger)
  let hashes: HashService | undefined
  try {
    const found = await reconcile(layout, index, logger)
    hashes = options.hashing === 'inline' ? new InlineHashService() : new ThreadHashService(logger)
    const directory = options.containerdContentDirectory
    const foreign = directory === undefined ? undefined : new ForeignContent(directory, { index, hashes, log: logger })
    await foreign?.start()
    const syncer = new ChunkSyncer(logger)
    const { quotaBytes = Infinity, metrics } = options
    return new LevelStore({ layout, index, hashes, syncer, found, foreign, quotaBytes, logger, metrics })
  } catch (error) {
    await hashes?.close()
    await index.close()
    throw asStoreError(error, `opening the store ${options.directory}`)
  }
}
