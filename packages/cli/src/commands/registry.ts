// The words after `shoal registry` that do one thing and end, beside those of its daemon. Add one to COMMANDS.
import { Command, Option } from 'commander'
import type { RegistryConfig } from '@shoal/origin/config'
import { loadConfig } from '../config/load.ts'
import { createLogger } from '../daemon/logging.ts'
import { daemonSchemas } from '../daemon/modules.ts'
import { EXIT_FAILED, EXIT_OK } from '../exit-codes.ts'
import { showSize, showTable } from '../people.ts'
import type { Output } from '../program.ts'

type RegistryWord = (args: string[], output: Output) => Promise<number>

const COMMANDS: Record<string, RegistryWord> = { gc: collectCommand }

/** The command that the first argument names; undefined when it is the daemon that is meant. */
export function registryCommand(args: string[]): RegistryWord | undefined {
  const [word = ''] = args
  return Object.hasOwn(COMMANDS, word) ? COMMANDS[word] : undefined
}

/** A command that reads the configuration of the registry. */
function withConfig(name: string, description: string, output: Output): Command {
  return new Command(`shoal registry ${name}`)
    .description(description)
    .addOption(new Option('-c, --config <file>', 'configuration file, YAML').env('SHOAL_CONFIG'))
    .exitOverride()
    .configureOutput({ writeOut: output.out, writeErr: output.err })
}

async function loadRegistryConfig(file: string | undefined, output: Output): Promise<RegistryConfig> {
  const { registry, ...others } = await daemonSchemas()
  const { values, warnings } = await loadConfig({
    schema: registry,
    ...(file !== undefined && { file }),
    environment: process.env,
    flags: {},
    otherSchemas: Object.values(others),
  })
  for (const warning of warnings) output.err(`shoal: ${warning}\n`)
  return values as RegistryConfig
}

async function collectCommand([, ...args]: string[], output: Output): Promise<number> {
  const command = withConfig('gc', 'Remove what no image needs. The registry may go on running.', output)
    .option('--dry-run', 'tell what would go, and remove nothing')
    .option('--json', 'print it as JSON')
  command.parse(args, { from: 'user' })
  const { config: file, dryRun = false, json } = command.opts<{ config?: string; dryRun?: boolean; json?: boolean }>()
  const config = await loadRegistryConfig(file, output)
  const { collectGarbage } = await import('@shoal/origin')
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
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
  }
}
