// What is wrong with a registry's configuration though each value is right by itself: found before the daemon starts.
import { ConfigMistakeError, type ConfigMistake } from '@shoal/oci'
import type { RegistryConfig } from './config.ts'
import { endpointUrls } from './notifications/notifier.ts'
import { placeSettings } from './places.ts'
import { ruleNames } from './replication/rule.ts'

export function registryMistakes(config: RegistryConfig): ConfigMistake[] {
  const { notifications = [], replication = [] } = config
  const checks = [() => placeSettings(config), () => endpointUrls(notifications), () => ruleNames(replication)]
  return checks.flatMap((check) => {
    try {
      check()
      return []
    } catch (error) {
      if (!(error instanceof ConfigMistakeError)) throw error
      return [error.mistake]
    }
  })
}
