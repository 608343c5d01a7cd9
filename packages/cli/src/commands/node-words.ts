// The words that set a node up and look it over: `shoal configure`, `shoal doctor`.
import { Option, type Command } from 'commander'
import type { Output } from '../program.ts'
import { withAccess } from './access-flags.ts'
import type { ConfigureOptions } from './configure.ts'
import type { DoctorOptions } from './doctor.ts'
import type { Action } from './image/words.ts'

const DEFAULT_MIRROR = 'http://127.0.0.1:7700'

export function addNodeWords(program: Command, action: Action, output: Output): void {
  const root = (): Option => new Option('--root <folder>', "where the machine's files are").default('/')
  program
    .command('configure')
    .description('have the container runtimes of this machine pull through the agent')
    .argument('[runtimes...]', 'containerd, docker, podman, cri-o (default: those installed)')
    .option('--mirror <url>', "the agent's mirror endpoint", DEFAULT_MIRROR)
    .option('--ca <file>', "who signed the mirror's certificate (PEM): containerd is told of it")
    .addOption(
      new Option('--registry <host>', 'a registry that podman and CRI-O take through the agent').argParser(
        (value: string, before: string[] = []) => [...before, value],
      ),
    )
    .option('--dry-run', 'show what would change')
    .option('--undo', 'remove what was written')
    .addOption(root())
    .action(
      action(async (runtimes: string[], options: ConfigureOptions) =>
        (await import('./configure.ts')).configureCommand(runtimes, options, output),
      ),
    )
  withAccess(program.command('doctor'))
    .description('look this node over: one line for each thing, and what to do about it')
    .addOption(
      new Option('-c, --config <file>', 'configuration of the agent')
        .env('SHOAL_CONFIG')
        .default('/etc/shoal/agent.yaml'),
    )
    .option('--image <image>', 'pull its manifest and configuration through the agent, too')
    .option('--tracker-http-port <port>', "where the trackers' HTTP is", '7711')
    .option('--json', 'print it as JSON')
    .addOption(root())
    .action(action(async (options: DoctorOptions) => (await import('./doctor.ts')).doctorCommand(options, output)))
}
