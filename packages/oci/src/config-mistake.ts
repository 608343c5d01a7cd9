// What is wrong with a daemon's configuration though each value is right by its schema.

export interface ConfigMistake {
  key: string
  /** Follows the key in a sentence. */
  message: string
}

/** The same as an error, for whoever meets it while it uses the configuration. */
export class ConfigMistakeError extends Error {
  override readonly name = 'ConfigMistakeError'
  readonly mistake: ConfigMistake

  constructor(key: string, message: string) {
    super(`${key} ${message}`)
    this.mistake = { key, message }
  }
}
