#!/usr/bin/env -S node --disable-warning=ExperimentalWarning
// The shoal command. Kept apart from src/ so that importing the package never runs anything.
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'

// Compiled code is kept beside the dependencies, where only who may change the program can change it: daemons start in
// half the CPU time. Where that folder cannot be written, everything works as before.
enableCompileCache(join(import.meta.dirname, '../../../node_modules/.cache/shoal'))
const { runCommand } = await import('../src/index.ts')

// Output into a pipe whose reader is gone (| head) is the reader's wish, not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

const exitCode = await runCommand(process.argv.slice(2))
// Handles of other people's libraries must not keep a finished command alive; what was written is flushed first.
process.stdout.write('', () => process.stderr.write('', () => process.exit(exitCode)))
