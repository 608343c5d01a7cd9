// Asks for a password at the terminal, without showing it, twice.
import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { CommandError, UsageError } from '../../exit-codes.ts'

/** @throws UsageError when the two differ; CommandError when the person gives up */
export async function askPassword(user: string): Promise<string> {
  const first = await ask(`Password for ${user}: `)
  if (first !== (await ask('The same again: '))) throw new UsageError('the two passwords differ: nothing was changed')
  return first
}

/** readline edits the line; what it would print goes nowhere, so only the question is seen. */
async function ask(question: string): Promise<string> {
  const silent = new Writable({ write: (_piece, _encoding, done) => done() })
  const lines = createInterface({ input: process.stdin, output: silent, terminal: true })
  const givenUp = new AbortController()
  lines.once('SIGINT', () => givenUp.abort())
  lines.once('close', () => givenUp.abort())
  process.stderr.write(question)
  try {
    return await lines.question('', { signal: givenUp.signal })
  } catch (error) {
    if (givenUp.signal.aborted) throw new CommandError('given up: nothing was changed')
    throw error
  } finally {
    lines.close()
    process.stderr.write('\n')
  }
}
