// The command line: which words there are, and what errors become.
import { Command, CommanderError, InvalidArgumentError } from 'commander'
import type { AdminOptions } from './admin-client.ts'
import type { DemoOptions } from './commands/demo.ts'
import { withAdmin } from './commands/access-flags.ts'
import { addImageWords } from './commands/image/words.ts'
import { addNodeWords } from './commands/node-words.ts'
import { addPrepareWords } from './commands/prepare-words.ts'
import { addRegistryWords } from './commands/registry/words.ts'
import { ConfigError } from './config/mistakes.ts'
import { DAEMONS, type DaemonName } from './daemon/modules.ts'
import { CommandError, EXIT_FAILED, EXIT_OK, EXIT_USAGE, UsageError } from './exit-codes.ts'
import { VERSION } from './version.ts'

/** Where a command writes. */
export interface Output {
  out: (text: string) => void
  err: (text: string) => void
}

const STANDARD: Output = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
}

function countOf(limit: number): (text: string) => number {
  return (text) => {
    const count = Number(text)
    if (!/^\d+$/.test(text) || count < 1 || count > limit) throw new InvalidArgumentError(`1 to ${limit} are possible.`)
    return count
  }
}

/** Runs the command with the given arguments. Resolves to the exit code. */
export async function runCommand(args: string[], output: Output = STANDARD): Promise<number> {
  // An empty variable counts as not given, for flags of commands as for keys of daemons.
  for (const name of Object.keys(process.env)) {
    if (name.startsWith('SHOAL_') && process.env[name] === '') delete process.env[name]
  }
  let exitCode = EXIT_OK
  /** Commands load their code when they are called, not before. */
  const action =
    <Given extends unknown[]>(load: (...given: Given) => Promise<number>) =>
    async (...given: Given) => {
      exitCode = await load(...given)
    }

  const program = new Command('shoal')
    .description('Peer-to-peer distribution of container images.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .configureHelp({ subcommandTerm: (command) => command.name() })
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({ writeOut: output.out, writeErr: output.err })
    .showHelpAfterError('(shoal --help shows what there is)')

  for (const name of Object.keys(DAEMONS) as DaemonName[]) {
    // Its flags come from the daemon's schema; it parses them itself.
    const daemon = program
      .command(name)
      .summary(DAEMONS[name].summary)
      .helpOption(false)
      .allowUnknownOption()
      .allowExcessArguments()
      .passThroughOptions()
      .argument('[arguments...]')
      .usage('--config <file> [flags]')
      .action(
        action(async (rest: string[]) => {
          const others = daemon.commands.map((command) => `${command.name()}: ${command.description()}`)
          return (await import('./commands/daemon.ts')).daemonCommand(name, rest, output, others)
        }),
      )
    if (name === 'registry') addRegistryWords(daemon, action, output)
  }

  const key = program.command('key').description('the secret that admits nodes to the cluster')
  key
    .command('new')
    .description('make a new swarm key')
    .option('-o, --out <file>', 'write it to this file (mode 0600) instead of standard output')
    .action(
      action(async (options: { out?: string }) => (await import('./commands/key.ts')).newKeyCommand(options, output)),
    )

  withAdmin(program.command('status'))
    .description('show what the agent of this node is doing')
    .option('--json', 'print it as JSON')
    .action(
      action(async (options: AdminOptions & { json?: boolean }) =>
        (await import('./commands/status.ts')).statusCommand(options, output),
      ),
    )

  withAdmin(program.command('pull'))
    .description("bring an image into this node's store, through the swarm")
    .argument('<image>', 'as for docker pull: alpine:3, ghcr.io/org/app@sha256:…')
    .option('--platform <os/arch>', 'of an image for several platforms (default: that of this machine)')
    .action(
      action(async (image: string, options: AdminOptions & { platform?: string }) =>
        (await import('./commands/pull.ts')).pullCommand(image, options, output),
      ),
    )

  addPrepareWords(program, action, output)
  addImageWords(program, action, output)
  addNodeWords(program, action, output)

  program
    .command('demo')
    .description('run a small cluster on this machine, push an image and pull it through all agents at once')
    .option('--agents <count>', 'number of agents', countOf(64), 6)
    .option('--image <size>', 'size of the image', '64MiB')
    .option('--keep', 'leave the cluster up until Ctrl-C, and show how to pull from it')
    .action(action(async (options: DemoOptions) => (await import('./commands/demo.ts')).demoCommand(options, output)))

  program
    .command('version')
    .description('print the versions of Shoal and Node')
    .action(
      action(async () => {
        output.out(`shoal ${VERSION} (node ${process.versions.node}, ${process.platform}/${process.arch})\n`)
        return EXIT_OK
      }),
    )

  try {
    // By itself, commander's word for help looks at one word only, and knows no flags of daemons.
    const [word, ...asked] = args
    const isKnown = program.commands.some((command) => command.name() === asked[0])
    const words = word === 'help' && isKnown ? [...asked, '--help'] : args
    await program.parseAsync(words, { from: 'user' })
    return exitCode
  } catch (error) {
    return toExitCode(error, output)
  }
}

function toExitCode(error: unknown, output: Output): number {
  // Commander has written its own message; help and version come as errors with exit code 0.
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_OK : EXIT_USAGE
  if (error instanceof ConfigError || error instanceof UsageError) {
    output.err(`${error.message.replaceAll(/^/gm, 'shoal: ')}\n`)
    return EXIT_USAGE
  }
  const shown = error instanceof CommandError ? error.message : error instanceof Error ? error.stack : String(error)
  output.err(`shoal: ${shown}\n`)
  return EXIT_FAILED
}
