export { EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError, UsageError } from './exit-codes.ts'
export { runCommand } from './program.ts'
