// The certificate of the registry, from files that are replaced while it runs: new connections get the new one.
import { unwatchFile, watchFile } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { Server } from 'node:tls'
import { ApiAccessError, checkPair } from '@shoal/registry/access'
import type { Logger } from 'pino'

/** The files are looked at so often, in ms. Looking, not events: certificates come as links that are exchanged. */
const LOOK_MS = 2000

export interface TlsFiles {
  /** PEM, with its chain. */
  certFile: string
  keyFile: string
}

export interface TlsPair {
  cert: Buffer
  key: Buffer
}

/** @throws when a file cannot be read */
export async function readTlsFiles({ certFile, keyFile }: TlsFiles): Promise<TlsPair> {
  const [cert, key] = await Promise.all([readFile(certFile), readFile(keyFile)])
  return { cert, key }
}

/** What the registry starts with. @throws ApiAccessError when a file cannot be read, or the two do not fit */
export async function loadTlsFiles(files: TlsFiles): Promise<TlsPair> {
  const pair = await readTlsFiles(files).catch((cause: NodeJS.ErrnoException) => {
    const path = cause.path ?? files.certFile
    throw new ApiAccessError(path, `${path} cannot be read: ${cause.message}`, { cause })
  })
  checkPair(pair.cert, pair.key, files)
  return pair
}

/**
 * Gives the server the files anew whenever one of them changes. A pair that does not fit (one file is replaced before the
 * other) is told in the log, and the one before stays. Returns what ends it.
 */
export function followTlsFiles(server: Pick<Server, 'setSecureContext'>, files: TlsFiles, logger: Logger): () => void {
  const reload = async (): Promise<void> => {
    try {
      server.setSecureContext(await readTlsFiles(files))
      logger.info({ certFile: files.certFile }, 'the certificate was read again')
    } catch (error) {
      logger.warn({ err: error, ...files }, 'the new certificate cannot be used: the one before stays')
    }
  }
  const changed = (): void => void reload().catch(() => undefined)
  const names = [files.certFile, files.keyFile]
  for (const name of names) watchFile(name, { interval: LOOK_MS, persistent: false }, changed)
  return () => {
    for (const name of names) unwatchFile(name, changed)
  }
}
