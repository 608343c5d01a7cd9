// `shoal registry gc`: removes what no image needs, once, beside a registry that may go on running.
import { OciError } from '@shoal/oci'
import { createLogger } from '../../daemon/logging.ts'
import { CommandError, EXIT_FAILED, EXIT_OK } from '../../exit-codes.ts'
import { showSize, showTable } from '../../people.ts'
import type { Output } from '../../program.ts'
import { loadRegistryConfig } from './config.ts'

export interface CollectOptions {
  config?: string
  dryRun?: boolean
  json?: boolean
}

/** Resolves to the exit code: 1 when something could not be read and was left alone. @throws ConfigError, CommandError */
export async function collectCommand(options: CollectOptions, output: Output): Promise<number> {
  const { dryRun = false, json = false } = options
  const config = await loadRegistryConfig(options)
  const { collectGarbage, MissingFolderError } = await import('@shoal/origin')
  const stop = new AbortController()
  const onSignal = (): void => stop.abort(new Error('stopped'))
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal)
  try {
    const logger = createLogger({ name: 'shoal-registry-gc', level: 'silent', format: 'json' })
    const reports = await collectGarbage(config, { dryRun, logger, signal: stop.signal })
    if (json) output.out(`${JSON.stringify(reports, null, 2)}\n`)
    else {
      const rows = reports.map(({ place, manifests, links, blobs, bytes }) => [
        place,
        ...[manifests, links, blobs].map(String),
        showSize(bytes),
      ])
      const sizeHeader = dryRun ? 'would be freed' : 'freed'
      output.out(`${showTable(['place', 'untagged manifests', 'unneeded links', 'contents', sizeHeader], rows)}\n`)
    }
    for (const { place, unreadable } of reports) {
      for (const name of unreadable) {
        output.err(`shoal: ${name} (${place}) was left alone: one of its manifests cannot be read; push it again\n`)
      }
    }
    return reports.some(({ unreadable }) => unreadable.length > 0) ? EXIT_FAILED : EXIT_OK
  } catch (error) {
    const isTheirs = error instanceof MissingFolderError || (error instanceof OciError && error.code === 'UNAVAILABLE')
    throw isTheirs ? new CommandError(error.message, { cause: error }) : error
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
  }
}
