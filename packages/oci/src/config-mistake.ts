// What is wrong with a daemon's configuration though each value is right by its schema.

export interface ConfigMistake {
  /** Of the top level. */
  key: string
  /** Steps from there to what is meant: a name in a map, an index of a list. */
  below?: readonly (string | number)[]
  /** Follows the key in a sentence. */
  message: string
  /** This user may not read a file, which another user might. */
  isForbidden?: boolean
}

/** One thing to look at in a configuration. */
export interface ConfigCheck<Config> {
  /** All keys that it looks at: with a mistake in one of them there is nothing to look at. */
  keys: readonly string[]
  /** Looks at files, which need not be there before the daemon starts. */
  readsFiles?: boolean
  find: (config: Config) => ConfigMistake[] | Promise<ConfigMistake[]>
}

/** The same as an error, for whoever meets it while it uses the configuration. */
export class ConfigMistakeError extends Error {
  override readonly name = 'ConfigMistakeError'
  readonly mistake: ConfigMistake

  constructor(key: string, message: string, options?: ErrorOptions) {
    super(`${key} ${message}`, options)
    this.mistake = { key, message }
  }
}

/**
 * Loads what a daemon would load, and tells of each that it would refuse.
 *
 * @param refusal what the loaders throw for what cannot be used; anything else is a fault, and passed on
 * @param mistakeOf the index is that of the load
 */
export async function loadMistakes<Refusal extends Error>(
  refusal: new (...given: never[]) => Refusal,
  loads: readonly (() => unknown)[],
  mistakeOf: (error: Refusal, index: number) => ConfigMistake,
): Promise<ConfigMistake[]> {
  const mistakes: ConfigMistake[] = []
  for (const [index, load] of loads.entries()) {
    try {
      await load()
    } catch (error) {
      if (!(error instanceof refusal)) throw error
      const code = (error.cause as { code?: unknown } | undefined)?.code
      const isForbidden = code === 'EACCES' || code === 'EPERM'
      mistakes.push({ ...mistakeOf(error, index), ...(isForbidden && { isForbidden }) })
    }
  }
  return mistakes
}

/** What to say of the file of a key, with the words of its loader. */
export function unusable(error: Error): string {
  return `cannot be used: ${error.message}`
}
