// What the commands below `shoal registry` read of the registry's configuration: the file, environment and checks of the
// daemon, so that a command and the daemon never mean different places.
import type { RegistryConfig } from '@shoal/origin/config'
import { loadConfig } from '../../config/load.ts'
import { DAEMONS, daemonSchemas } from '../../daemon/modules.ts'
import { UsageError } from '../../exit-codes.ts'

export interface RegistryFileOptions {
  config?: string
  htpasswdFile?: string
}

/** The registry's settings. @throws ConfigError */
export async function loadRegistryConfig(options: { config?: string }): Promise<RegistryConfig> {
  const schemas = await daemonSchemas()
  // Its files are not needed here, and the accounts may be about to be made.
  const checks = (await DAEMONS.registry.checks()).filter(({ readsFiles }) => readsFiles !== true)
  const { values } = await loadConfig({
    schema: schemas.registry,
    ...(options.config !== undefined && { file: options.config }),
    environment: process.env,
    otherSchemas: [schemas.agent, schemas.tracker],
    checks,
  })
  return values as RegistryConfig
}

/** The file of accounts that is meant. @throws ConfigError, UsageError */
export async function accountsFile(options: RegistryFileOptions): Promise<string> {
  if (options.htpasswdFile !== undefined) return options.htpasswdFile
  const { htpasswdFile } = await loadRegistryConfig(options)
  if (htpasswdFile !== undefined) return htpasswdFile
  throw new UsageError(
    options.config === undefined
      ? 'which accounts? Name the file with --htpasswd-file, or the configuration of the registry with --config'
      : `${options.config} has no htpasswdFile: the registry has no accounts. Add the key, or use --htpasswd-file`,
  )
}
