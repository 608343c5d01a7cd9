// What the command tells its caller, and the errors that stand for it.

export const EXIT_OK = 0
export const EXIT_FAILED = 1
/** Wrong usage or configuration: trying again without a change is pointless. */
export const EXIT_USAGE = 2

/** The command could not do what it was asked; the message is for people and says what to do. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
}

/** The command was asked for something that makes no sense. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}
