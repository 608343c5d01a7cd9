// What all image commands share: how registries are reached, what a person sees, and what errors become.
import { homedir } from 'node:os'
import { join } from 'node:path'
import {
  formatReference,
  InvalidPlatformError,
  InvalidReferenceError,
  parsePlatform,
  parseReference,
  parseRegistry,
  type Descriptor,
  type ImageReference,
  type Platform,
} from '@shoal/oci'
import { ImageError, type Registry, type TransferDisplay } from '@shoal/origin/images'
import {
  BlobSourceError,
  createUpstream,
  InvalidUpstreamOptionError,
  UpstreamError,
  type RegistryOptions,
} from '@shoal/upstream'
import { CommandError, EXIT_OK, UsageError } from '../../exit-codes.ts'
import { ArchiveError } from '../../image-archive/failure.ts'
import { plainText, shortDigest, showSize } from '../../people.ts'
import type { Output } from '../../program.ts'
import { BlobBars } from '../../pull-progress.ts'
import { VERSION } from '../../version.ts'

/** Their messages are for people. */
const KNOWN_ERRORS = [UpstreamError, ArchiveError, BlobSourceError, ImageError]

/** Flags of every image command. */
export interface ConnectionOptions {
  /** Registries that are talked to without TLS. */
  plainHttp?: string[]
  insecureSkipVerify?: string[]
  ca?: string
  cert?: string
  key?: string
  /** Folder of docker's config.json. */
  dockerConfig?: string
}

/**
 * Runs a command with a client of the registries that it names, which ends with it, and a signal that Ctrl-C aborts.
 * @throws CommandError, UsageError
 */
export async function withRegistry(
  names: string[],
  options: ConnectionOptions,
  run: (registry: Registry, signal: AbortSignal) => Promise<void>,
): Promise<number> {
  const interrupted = new AbortController()
  const onInterrupt = (): void => interrupted.abort(new CommandError('interrupted'))
  process.once('SIGINT', onInterrupt)
  process.once('SIGTERM', onInterrupt)
  let registry: Registry | undefined
  try {
    registry = createUpstream({
      registries: settingsFor(names, options),
      dockerConfigFile: join(dockerFolder(options), 'config.json'),
      userAgent: `shoal/${VERSION}`,
    })
    await run(registry, interrupted.signal)
    return EXIT_OK
  } catch (error) {
    if (interrupted.signal.aborted) throw new CommandError('interrupted')
    if (error instanceof InvalidUpstreamOptionError) throw new UsageError(error.message)
    if (error instanceof Error && KNOWN_ERRORS.some((known) => error instanceof known))
      throw new CommandError(plainText(error.message))
    throw error
  } finally {
    await registry?.close()
    process.off('SIGINT', onInterrupt)
    process.off('SIGTERM', onInterrupt)
  }
}

function dockerFolder({ dockerConfig }: ConnectionOptions): string {
  return dockerConfig ?? process.env['DOCKER_CONFIG'] ?? join(homedir(), '.docker')
}

function settingsFor(names: string[], options: ConnectionOptions): Record<string, RegistryOptions> {
  const list = (registries: string[] = []): string[] => registries.map((one) => usage(() => parseRegistry(one)))
  const plain = list(options.plainHttp)
  const unchecked = list(options.insecureSkipVerify)
  const { ca, cert, key } = options
  const settings: Record<string, RegistryOptions> = {}
  for (const name of names) {
    settings[name] = {
      ...(plain.includes(name) ? { plainHttp: true } : {}),
      ...(unchecked.includes(name) ? { insecureSkipVerify: true } : {}),
      ...(ca === undefined ? {} : { caFile: ca }),
      ...(cert === undefined ? {} : { certFile: cert }),
      ...(key === undefined ? {} : { keyFile: key }),
    }
  }
  return settings
}

/** @throws UsageError */
export function readReference(text: string): ImageReference {
  return usage(() => parseReference(text))
}

/** @throws UsageError */
export function readPlatform(text: string | undefined): Platform | undefined {
  return text === undefined ? undefined : usage(() => parsePlatform(text))
}

export function machinePlatform(): Platform {
  return parsePlatform(`linux/${process.arch}`)
}

/** Turns what a person wrote wrong into an error of usage. */
export function usage<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    const wrong = error instanceof InvalidReferenceError || error instanceof InvalidPlatformError
    throw wrong ? new UsageError(error.message) : error
  }
}

/** `docker.io/library/alpine:3`, without a digest if there is a tag. */
export function showReference({ digest, ...name }: ImageReference): string {
  return formatReference(name.tag === undefined && digest !== undefined ? { ...name, digest } : name)
}

/** Bars on a terminal, else a line for each blob that is done. */
export function openDisplay(output: Output): TransferDisplay {
  if (!process.stderr.isTTY) {
    return {
      begin: () => undefined,
      progress: () => undefined,
      done: ({ digest, size }, outcome) => output.err(`${shortDigest(digest)} ${showSize(size)} ${outcome}\n`),
      close: () => undefined,
    }
  }
  const bars = new BlobBars(process.stderr)
  return {
    begin: ({ digest, size }: Descriptor) => void bars.begin(digest, size),
    progress: ({ digest, size }, bytes) => bars.update(digest, size, bytes),
    done: ({ digest }, outcome) => bars.done(digest, outcome),
    close: () => bars.close(),
  }
}
