// What is wrong with a registry's configuration though each value is right by itself: found before the daemon starts.
import type { RegistryConfig } from './config.ts'
import { endpointUrls } from './notifications/notifier.ts'
import { placeSettings } from './places.ts'
import { ruleNames } from './replication/rule.ts'

export interface ConfigMistake {
  key: string
  /** Follows the key in a sentence. */
  message: string
}

export function registryMistakes(config: RegistryConfig): ConfigMistake[] {
  const { notifications = [], replication = [] } = config
  const checks = [() => placeSettings(config), () => endpointUrls(notifications), () => ruleNames(replication)]
  return checks.flatMap((check) => {
    try {
      check()
      return []
    } catch (error) {
      const [, key, message] = /^(\w+): ([^]*)$/.exec((error as Error).message) ?? []
      if (key === undefined || message === undefined) throw error
      return [{ key, message }]
    }
  })
}
