// `shoal agent`, `shoal tracker`, `shoal registry`: every key of the daemon as a flag, then its life.
import { Command, Option } from 'commander'
import { keysOf, showDefault, type ConfigKey } from '../config/keys.ts'
import { loadConfig } from '../config/load.ts'
import { createLogger } from '../daemon/logging.ts'
import { DAEMONS, daemonSchemas, type DaemonName } from '../daemon/modules.ts'
import { runDaemon } from '../daemon/run.ts'
import { EXIT_OK } from '../exit-codes.ts'
import type { Output } from '../program.ts'

function placeholder(key: ConfigKey): string {
  if (key.kind === 'list') return '<list>'
  if (key.kind === 'boolean') return '[boolean]'
  if (key.kind === 'choice') return `<${(key.schema.enum ?? []).join('|')}>`
  if (key.schema.unit === 'ms') return '<duration>'
  if (key.schema.unit === 'bytes') return '<size>'
  if (key.schema.unit === 'bytesPerSecond') return '<rate>'
  if (key.schema.format === 'path') return '<path>'
  return key.kind === 'number' ? '<number>' : '<text>'
}

function defaultInWords(key: ConfigKey): string {
  const shown = showDefault(key.schema)
  return shown === undefined ? '' : ` (default: ${shown})`
}

/** A flag for every key that is not a map. */
function flagOf(key: ConfigKey): Option {
  const option = new Option(
    `${key.flag} ${placeholder(key)}`,
    `${key.schema.description}${defaultInWords(key)}`.replaceAll('`', ''),
  ).helpGroup(`${key.schema.section ?? 'Keys'}:`)
  if (key.kind === 'list') option.argParser((text: string, before: string[] | undefined) => [...(before ?? []), text])
  return option
}

/**
 * Parses the arguments after the daemon's name, loads its configuration and runs it. Resolves to the exit code.
 *
 * @param others - words that may follow the name instead of flags, each with what it does, for the help
 */
export async function daemonCommand(
  name: DaemonName,
  args: string[],
  output: Output,
  others: readonly string[] = [],
): Promise<number> {
  const schemas = await daemonSchemas()
  const schema = schemas[name]
  const keys = keysOf(schema)
  const daemon = DAEMONS[name]

  const command = new Command(`shoal ${name}`)
    .description(
      `${daemon.summary}\n\nEvery key of the file is also a flag and a variable (SHOAL_ + its name in capitals).`,
    )
    .addOption(new Option('-c, --config <file>', 'configuration file, YAML').env('SHOAL_CONFIG'))
    .option('--check', 'check the configuration, tell what is wrong, and end')
    .exitOverride()
    .configureOutput({ writeOut: output.out, writeErr: output.err })
  for (const key of keys) if (key.flag !== undefined) command.addOption(flagOf(key))
  if (others.length > 0) {
    command.addHelpText('after', `\nOther commands (shoal ${name} <command> --help):\n  ${others.join('\n  ')}`)
  }
  command.parse(args, { from: 'user' })

  // A flag of a boolean may come without its value. (A preset of commander's would be shown by the help.)
  const given = Object.fromEntries(
    Object.entries(command.opts<Record<string, string | string[] | true>>()).map(([flag, value]) => [
      flag,
      value === true ? 'true' : value,
    ]),
  )
  const { values, warnings } = await loadConfig({
    schema,
    ...(typeof given['config'] === 'string' && { file: given['config'] }),
    environment: process.env,
    flags: given,
    otherSchemas: Object.values(schemas).filter((other) => other !== schema),
    checks: await daemon.checks(),
  })
  if (given['check'] !== undefined) {
    for (const warning of warnings) output.err(`shoal: ${warning}\n`)
    output.out('The configuration is fine.\n')
    return EXIT_OK
  }

  const logger = createLogger({
    name: `shoal-${name}`,
    level: values['logLevel'] as string,
    format: values['logFormat'] as 'json' | 'pretty',
  })
  for (const warning of warnings) logger.warn(warning)
  const ports = Object.fromEntries(
    Object.entries(values).filter((entry): entry is [string, number] => /port$/i.test(entry[0])),
  )
  return runDaemon({
    create: () => daemon.create(values, logger),
    logger,
    closeLimitMs: daemon.closeLimitMs(values),
    ports,
  })
}
