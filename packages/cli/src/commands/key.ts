// `shoal key new`: a fresh swarm key, on standard output or in a file that only its owner can read.
import { open } from 'node:fs/promises'
import { CommandError, EXIT_OK } from '../exit-codes.ts'
import type { Output } from '../program.ts'

/** Writes a new swarm key. An existing file is never overwritten: nodes that have the old key would be shut out. */
export async function newKeyCommand(options: { out?: string }, output: Output): Promise<number> {
  const { generateSwarmKey } = await import('@shoal/network')
  const text = `${generateSwarmKey()}\n`
  if (options.out === undefined) {
    output.out(text)
    return EXIT_OK
  }
  const path = options.out
  const file = await open(path, 'wx', 0o600).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST') {
      throw new CommandError(`${path} exists and is left as it is: remove it first, or name another file`)
    }
    throw new CommandError(`${path} cannot be written: ${error.message}`)
  })
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  output.err(`The swarm key is in ${path}. Every node of the cluster needs it; nobody else may have it.\n`)
  return EXIT_OK
}
