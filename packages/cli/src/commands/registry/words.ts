// The words after `shoal registry` that do not start the daemon: each looks after what a registry keeps.
import { Option, type Command } from 'commander'
import type { Output } from '../../program.ts'
import type { CollectOptions } from './gc.ts'
import type { AddUserOptions } from './user.ts'
import type { RegistryFileOptions } from './config.ts'

/** Wraps what a command does, so that its exit code reaches the process. */
export type CommandAction = <Given extends unknown[]>(
  load: (...given: Given) => Promise<number>,
) => (...given: Given) => Promise<void>

/** `--config`, as the daemon has it: these commands look after the registry that the file describes. */
export function configOption(): Option {
  return new Option('-c, --config <file>', "the registry's configuration file").env('SHOAL_CONFIG')
}

/** Adds the commands below `shoal registry`; the daemon keeps the form `shoal registry --config FILE`. */
export function addRegistryWords(registry: Command, action: CommandAction, output: Output): void {
  const htpasswdOption = () =>
    new Option('--htpasswd-file <file>', 'the file of accounts (default: `htpasswdFile` of the configuration)')
  registry
    .command('gc')
    .helpOption('-h, --help', 'show help')
    .description('remove what no image needs; the registry may go on running')
    .addOption(configOption())
    .option('--dry-run', 'tell what would go, and remove nothing')
    .option('--json', 'print it as JSON')
    .action(action(async (options: CollectOptions) => (await import('./gc.ts')).collectCommand(options, output)))
  const user = registry.command('user').helpOption('-h, --help', 'show help').description('accounts of the registry')
  user
    .command('add')
    .description('add an account, or change its password; a registry that runs takes it at once')
    .argument('<name>')
    .option('--password-stdin', 'take the password from standard input instead of asking for it')
    .addOption(configOption())
    .addOption(htpasswdOption())
    .action(
      action(async (name: string, options: AddUserOptions) =>
        (await import('./user.ts')).addUserCommand(name, options, output),
      ),
    )
  user
    .command('remove')
    .description('remove an account')
    .argument('<name>')
    .addOption(configOption())
    .addOption(htpasswdOption())
    .action(
      action(async (name: string, options: RegistryFileOptions) =>
        (await import('./user.ts')).removeUserCommand(name, options, output),
      ),
    )
  user
    .command('list')
    .description('print the names of all accounts, one a line')
    .addOption(configOption())
    .addOption(htpasswdOption())
    .action(
      action(async (options: RegistryFileOptions) => (await import('./user.ts')).listUsersCommand(options, output)),
    )
}
