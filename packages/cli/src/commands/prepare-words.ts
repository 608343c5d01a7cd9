// The words that have images in place before they are needed, and keep them there: `shoal preheat`, `pin`, `unpin`, `pins`.
import { InvalidArgumentError, Option, type Command } from 'commander'
import type { AdminOptions } from '../admin-client.ts'
import type { Output } from '../program.ts'
import { withAccess, withAdmin } from './access-flags.ts'
import type { Action } from './image/words.ts'
import type { PreheatOptions } from './preheat.ts'

function shareOf(text: string): number {
  const share = Number(/^(\d{1,3})%?$/.exec(text)?.[1])
  if (!(share >= 1 && share <= 100)) throw new InvalidArgumentError('1% to 100% are possible.')
  return share
}

export function addPrepareWords(program: Command, action: Action, output: Output): void {
  withAdmin(program.command('pin'))
    .description('pull an image and keep it, whatever the quota of the store says')
    .argument('<image>', 'as for docker pull')
    .option('--platform <os/arch>', 'of an image for several platforms (default: that of this machine)')
    .action(
      action(async (image: string, options: AdminOptions & { platform?: string }) =>
        (await import('./pull.ts')).pullCommand(image, { ...options, pin: true }, output),
      ),
    )

  withAdmin(program.command('unpin'))
    .description('let an image go when the store needs the room')
    .argument('<image>', 'as it was pinned')
    .action(
      action(async (image: string, options: AdminOptions) =>
        (await import('./pins.ts')).unpinCommand(image, options, output),
      ),
    )

  withAdmin(program.command('pins'))
    .description('list the images that are pinned on this node')
    .action(action(async (options: AdminOptions) => (await import('./pins.ts')).pinsCommand(options, output)))

  withAccess(program.command('preheat'))
    .description('bring an image to many nodes before they need it, through a tracker')
    .argument('<image>', 'as for docker pull')
    .addOption(
      new Option('--tracker <url>', "the tracker's HTTP API").env('SHOAL_TRACKER_URL').default('http://127.0.0.1:7711'),
    )
    .option('--zone <zone>', 'only to the nodes of this zone')
    .option('--nodes <share>', 'share of the nodes, such as 20% (a larger share includes the same nodes)', shareOf, 100)
    .option('--platform <os/arch>', 'of an image for several platforms (default: that of each node)')
    .addOption(new Option('--pin', 'keep it there, whatever the quota says').conflicts('unpin'))
    .option('--unpin', 'let it go there when room is needed: pulls nothing')
    .option('--no-wait', 'do not wait for the end')
    .action(
      action(async (image: string, options: PreheatOptions) =>
        (await import('./preheat.ts')).preheatCommand(image, options, output),
      ),
    )
}
