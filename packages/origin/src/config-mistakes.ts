// What is wrong with a registry's configuration though each value is right by itself: found before the daemon starts.
import { access, constants } from 'node:fs/promises'
import { ConfigMistakeError, loadMistakes, unusable, type ConfigCheck, type ConfigMistake } from '@shoal/oci'
import { ApiAccessError } from '@shoal/registry/access'
import { InvalidAccountError, readAccounts } from './accounts/htpasswd.ts'
import { readSigningKey, SigningKeyError } from './accounts/tokens.ts'
import type { RegistryConfig } from './config.ts'
import { endpointUrls } from './notifications/notifier.ts'
import { placeSettings } from './places.ts'
import { replicationMistakes } from './replication/access.ts'
import { ruleNames } from './replication/rule.ts'
import { loadTlsFiles } from './tls-files.ts'

export const registryChecks: readonly ConfigCheck<RegistryConfig>[] = [
  { keys: ['dataDirectory', 'places', 'defaultPlace'], find: (config) => contradictions(() => placeSettings(config)) },
  { keys: ['notifications'], find: ({ notifications = [] }) => contradictions(() => endpointUrls(notifications)) },
  { keys: ['replication'], find: ({ replication = [] }) => contradictions(() => ruleNames(replication)) },
  { keys: ['tlsCertFile', 'tlsKeyFile'], readsFiles: true, find: tlsMistakes },
  { keys: ['htpasswdFile'], readsFiles: true, find: accountMistakes },
  { keys: ['tokenKeyFile'], readsFiles: true, find: tokenKeyMistakes },
  { keys: ['replication'], readsFiles: true, find: ({ replication = [] }) => replicationMistakes(replication) },
  { keys: ['places'], readsFiles: true, find: credentialMistakes },
]

async function contradictions(check: () => unknown): Promise<ConfigMistake[]> {
  return await loadMistakes(ConfigMistakeError, [check], ({ mistake }) => mistake)
}

async function tlsMistakes({ tlsCertFile: certFile, tlsKeyFile: keyFile }: RegistryConfig): Promise<ConfigMistake[]> {
  if (certFile === undefined || keyFile === undefined) return []
  return await loadMistakes(ApiAccessError, [() => loadTlsFiles({ certFile, keyFile })], (error) => ({
    key: error.path === certFile ? 'tlsCertFile' : 'tlsKeyFile',
    message: unusable(error),
  }))
}

async function accountMistakes({ htpasswdFile }: RegistryConfig): Promise<ConfigMistake[]> {
  if (htpasswdFile === undefined) return []
  return await loadMistakes(InvalidAccountError, [() => readAccounts(htpasswdFile)], (error) => ({
    key: 'htpasswdFile',
    message: unusable(error),
  }))
}

async function tokenKeyMistakes({ tokenKeyFile }: RegistryConfig): Promise<ConfigMistake[]> {
  if (tokenKeyFile === undefined) return []
  return await loadMistakes(SigningKeyError, [() => readSigningKey(tokenKeyFile)], (error) => ({
    key: 'tokenKeyFile',
    message: unusable(error),
  }))
}

async function credentialMistakes({ places = {} }: RegistryConfig): Promise<ConfigMistake[]> {
  const named = Object.entries(places).flatMap(([place, { credentialsFile: file }]) => (file ? [{ place, file }] : []))
  const loads = named.map(
    ({ file }) =>
      () =>
        access(file, constants.R_OK).catch((cause: NodeJS.ErrnoException) => {
          throw new ConfigMistakeError('places', `cannot be read: ${file} (${cause.code})`, { cause })
        }),
  )
  return await loadMistakes(ConfigMistakeError, loads, ({ mistake }, index) => ({
    ...mistake,
    below: [named[index]?.place ?? '', 'credentialsFile'],
  }))
}
