#!/usr/bin/env -S node --disable-warning=ExperimentalWarning
// The shoal command. Kept apart from src/ so that importing the package never runs anything.
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'

// Compiled code is kept beside the dependencies, where only who may change the program can change it: daemons start in
// half the CPU time. Where that folder cannot be written, everything works as before.
enableCompileCache(join(import.meta.dirname, '../../../node_modules/.cache/shoal'))
const { EXIT_FAILED, runCommand } = await import('../src/index.ts')

// Output into a pipe whose reader is gone (| head) is the reader's wish, not an error. One that a full disk does not take
// is: the command still finishes what it is at, and then says so.
let lost: NodeJS.ErrnoException | undefined
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  lost ??= error
})

const exitCode = await runCommand(process.argv.slice(2))
// Handles of other people's libraries must not keep a finished command alive; what was written is flushed first.
process.stdout.write('', (error) => {
  // The last write of a command fails here, before its event comes.
  const failure: NodeJS.ErrnoException | null | undefined = lost ?? process.stdout.errored ?? error
  const isLost = failure != null && failure.code !== 'EPIPE'
  const words = isLost ? `shoal: standard output cannot be written: ${failure.message}\n` : ''
  process.stderr.write(words, () => process.exit(isLost ? EXIT_FAILED : exitCode))
})
