// The words and flags of `shoal image`.
import { InvalidArgumentError, Option, type Command } from 'commander'
import { parseQuantity, QuantityError } from '../../config/quantities.ts'
import type { Output } from '../../program.ts'
import type { CopyOptions } from './copy.ts'
import type { InspectOptions } from './inspect.ts'
import type { ListOptions } from './list.ts'
import type { LoadOptions } from './load.ts'
import type { SaveOptions } from './save.ts'

/** Makes a command's action of what runs it and gives its exit code. */
export type Action = <Given extends unknown[]>(
  load: (...given: Given) => Promise<number>,
) => (...given: Given) => Promise<void>

const PLATFORM = ['--platform <os/arch>', 'only the image for this platform (default: all)'] as const

function withConnection(command: Command): Command {
  const collect = (value: string, before: string[] = []): string[] => [...before, value]
  return command
    .addOption(
      new Option('--plain-http <registry>', 'talk to it without TLS (loopback needs no such word)').argParser(collect),
    )
    .addOption(new Option('--insecure-skip-verify <registry>', 'do not check its certificate').argParser(collect))
    .option('--ca <file>', "authorities that may sign a registry's certificate, beside the system's (PEM)")
    .option('--cert <file>', 'client certificate (PEM)')
    .option('--key <file>', 'key of the client certificate (PEM)')
    .option('--docker-config <folder>', 'where docker keeps its config.json (default: $DOCKER_CONFIG or ~/.docker)')
}

function chunkSize(): Option {
  return new Option('--chunk-size <size>', 'upload in pieces of this size, for proxies with a limit: 64MiB').argParser(
    (text) => {
      try {
        const bytes = parseQuantity(text, 'bytes')
        if (bytes > 0) return bytes
      } catch (error) {
        if (!(error instanceof QuantityError)) throw error
      }
      throw new InvalidArgumentError('A size is needed, such as 64MiB.')
    },
  )
}

export function addImageWords(program: Command, action: Action, output: Output): void {
  const image = program.command('image').description('move images between registries and archives, without docker')
  withConnection(image.command('load'))
    .description('push an image from a docker archive or an OCI layout (tar, tar.gz, tar.zst or folder)')
    .argument('<file>', 'archive or folder')
    .argument('<image>', 'where it goes: registry.example.com/team/app:1.0')
    .option(...PLATFORM)
    .option('--image <name>', 'which image, of an archive that has several')
    .addOption(chunkSize())
    .action(
      action(async (file: string, reference: string, options: LoadOptions) =>
        (await import('./load.ts')).loadCommand(file, reference, options, output),
      ),
    )
  withConnection(image.command('save'))
    .description('write an image to an archive that docker, podman and ctr load as well')
    .argument('<image>', 'registry.example.com/team/app:1.0')
    .argument('<file>', 'tar archive (OCI layout); - for standard output')
    .option(...PLATFORM)
    .action(
      action(async (reference: string, file: string, options: SaveOptions) =>
        (await import('./save.ts')).saveCommand(reference, file, options, output),
      ),
    )
  withConnection(image.command('copy'))
    .description('copy an image to another registry or name: only what is missing there')
    .argument('<from>', 'docker.io/library/alpine:3')
    .argument('<to>', 'registry.example.com/base/alpine:3')
    .option(...PLATFORM)
    .option('--referrers', 'signatures and other artifacts that refer to the image, too')
    .addOption(chunkSize())
    .action(
      action(async (from: string, to: string, options: CopyOptions) =>
        (await import('./copy.ts')).copyCommand(from, to, options, output),
      ),
    )
  withConnection(image.command('list'))
    .description('list the images of a registry')
    .argument('<registry>', 'registry.example.com, or registry.example.com/team')
    .option('--json', 'print it as JSON')
    .action(
      action(async (place: string, options: ListOptions) =>
        (await import('./list.ts')).listCommand(place, options, output),
      ),
    )
  withConnection(image.command('inspect'))
    .description('show what an image is, without pulling it')
    .argument('<image>', 'docker.io/library/alpine:3')
    .option(...PLATFORM)
    .option('--json', 'print it as JSON')
    .option('--raw', 'print the manifest as it is')
    .action(
      action(async (reference: string, options: InspectOptions) =>
        (await import('./inspect.ts')).inspectCommand(reference, options, output),
      ),
    )
}
