// `shoal registry user`: accounts are lines of an htpasswd file, which a running registry reads again by itself.
import { access } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import { InvalidAccountError, listUsers, removeUser, setUser } from '@shoal/origin/accounts'
import { CommandError, EXIT_OK, UsageError } from '../../exit-codes.ts'
import { plainText } from '../../people.ts'
import type { Output } from '../../program.ts'
import { accountsFile, type RegistryFileOptions } from './config.ts'
import { askPassword } from './password-prompt.ts'

export interface AddUserOptions extends RegistryFileOptions {
  passwordStdin?: boolean
}

const MAX_INPUT_BYTES = 4_096

/** What is wrong with a name or file is the caller's to put right; no stack is needed for that. */
async function changing<T>(file: string, change: () => Promise<T>): Promise<T> {
  try {
    return await change()
  } catch (error) {
    if (error instanceof InvalidAccountError) throw new UsageError(error.message)
    if (error instanceof Error && 'code' in error) throw new CommandError(`${file}: ${error.message}`)
    throw error
  }
}

/** The first line; what docker's --password-stdin does, too. */
async function readPassword(input: Readable): Promise<string> {
  const pieces: Buffer[] = []
  let length = 0
  for await (const piece of input) {
    const bytes = Buffer.from(piece as Buffer | string)
    length += bytes.length
    if (length > MAX_INPUT_BYTES) throw new UsageError('what comes from standard input is too long for a password')
    pieces.push(bytes)
  }
  const text = Buffer.concat(pieces)
    .toString()
    .replace(/\r?\n$/, '')
  if (/[\r\n]/.test(text)) throw new UsageError('a password is one line, but standard input has more')
  return text
}

/** Adds an account or changes its password. */
export async function addUserCommand(name: string, options: AddUserOptions, output: Output): Promise<number> {
  const file = await accountsFile(options)
  if (!options.passwordStdin && !process.stdin.isTTY) {
    throw new UsageError('there is no terminal to ask for the password: give it with --password-stdin')
  }
  const password = options.passwordStdin ? await readPassword(process.stdin) : await askPassword(name)
  const outcome = await changing(file, () => setUser(file, name, password))
  output.err(`${name} ${outcome === 'added' ? 'can log in now' : 'has a new password'} (${plainText(file)})\n`)
  return EXIT_OK
}

/** Removes an account. */
export async function removeUserCommand(name: string, options: RegistryFileOptions, output: Output): Promise<number> {
  const file = await accountsFile(options)
  if (!(await changing(file, () => removeUser(file, name)))) {
    throw new CommandError(`${plainText(file)} has no account ${JSON.stringify(name)}`)
  }
  output.err(`${name} cannot log in any more; tokens that were given out last until they expire\n`)
  return EXIT_OK
}

/** Prints the names of all accounts. */
export async function listUsersCommand(options: RegistryFileOptions, output: Output): Promise<number> {
  const file = await accountsFile(options)
  const isThere = await access(file).then(
    () => true,
    (error: NodeJS.ErrnoException) => error.code !== 'ENOENT',
  )
  if (!isThere) throw new CommandError(`${plainText(file)} does not exist: "shoal registry user add" makes it`)
  for (const name of await changing(file, () => listUsers(file))) output.out(`${name}\n`)
  return EXIT_OK
}
