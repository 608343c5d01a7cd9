// What of the files that protect an API cannot be used, found before a daemon starts.
import { loadMistakes, unusable, type ConfigMistake } from '@shoal/oci'
import { ApiAccessError, loadApiTokens, loadServerTls } from './api-access.ts'

/** What the keys of an API begin with: `adminTokenFile`, `mirrorTlsCertFile`. */
export type ApiName = 'admin' | 'mirror' | 'http'

const ENDINGS = ['TokenFile', 'TlsCertFile', 'TlsKeyFile', 'TlsClientCaFile'] as const

/** The keys that name files of an API. */
export function accessFileKeys(api: ApiName): string[] {
  return ENDINGS.map((ending) => api + ending)
}

/** What keeps the files of an API from being used: its tokens, certificate, key and the authorities of clients. */
export async function accessFileMistakes(
  api: ApiName,
  config: Readonly<Record<string, unknown>>,
): Promise<ConfigMistake[]> {
  const keys = accessFileKeys(api)
  const [tokenFile, certFile, keyFile, clientCaFile] = keys.map((key) => config[key] as string | undefined)
  const loads: { keys: string[]; load: () => Promise<unknown> }[] = []
  if (tokenFile !== undefined) loads.push({ keys, load: () => loadApiTokens(tokenFile) })
  if (certFile !== undefined && keyFile !== undefined) {
    loads.push({ keys: keys.slice(1), load: () => loadServerTls({ certFile, keyFile, clientCaFile }) })
  }
  return await loadMistakes(
    ApiAccessError,
    loads.map(({ load }) => load),
    (error, index) => ({
      key: loads[index]?.keys.find((key) => config[key] === error.path) ?? api,
      message: unusable(error),
    }),
  )
}
