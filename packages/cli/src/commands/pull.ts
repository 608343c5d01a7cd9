// `shoal pull`: an image through the local agent, with its progress.
import {
  InvalidPlatformError,
  InvalidReferenceError,
  formatPlatform,
  formatReference,
  parsePlatform,
  parseReference,
} from '@shoal/oci'
import { AdminClient, type AdminOptions } from '../admin-client.ts'
import { CommandError, EXIT_OK, UsageError } from '../exit-codes.ts'
import { plainText } from '../people.ts'
import type { Output } from '../program.ts'
import { BarDisplay, LineDisplay, PullTally, type PullDisplay } from '../pull-progress.ts'

/** The names of an image and a platform in full. @throws UsageError */
export function checkedImage(image: string): string {
  return checked(() => formatReference(parseReference(image)))
}

export function checkedPlatform(platform: string): string {
  return checked(() => formatPlatform(parsePlatform(platform)))
}

/** What a person gave, in the one form that the agent takes. @throws UsageError */
function checked<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof InvalidReferenceError || error instanceof InvalidPlatformError)
      throw new UsageError(error.message)
    throw error
  }
}

export async function pullCommand(
  image: string,
  options: AdminOptions & { platform?: string; pin?: boolean },
  output: Output,
): Promise<number> {
  const name = checkedImage(image)
  const wish = {
    ...(options.platform === undefined ? {} : { platform: checkedPlatform(options.platform) }),
    ...(options.pin === true ? { pin: true } : {}),
  }
  const client = new AdminClient(options)

  const interrupted = new AbortController()
  const onInterrupt = () => interrupted.abort()
  process.once('SIGINT', onInterrupt)
  process.once('SIGTERM', onInterrupt)

  const tally = new PullTally()
  const display: PullDisplay = process.stderr.isTTY ? new BarDisplay(process.stderr) : new LineDisplay(output.err)
  try {
    for await (const event of client.pull(name, wish, interrupted.signal)) {
      tally.add(event)
      display.event(event)
      if (event.event === 'error')
        throw new CommandError(`${name}: ${plainText(event.message)} (${plainText(event.code)})`)
      if (event.event === 'done') {
        display.close()
        output.out(tally.summary(event.digest, event.durationMs))
        return EXIT_OK
      }
    }
    throw new CommandError(`the agent ended the pull of ${name} without a result: see its log`)
  } catch (error) {
    if (interrupted.signal.aborted) throw new CommandError('interrupted')
    throw error
  } finally {
    display.close()
    process.off('SIGINT', onInterrupt)
    process.off('SIGTERM', onInterrupt)
  }
}
