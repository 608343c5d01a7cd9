// An S3-compatible object store (versitygw, installed by scripts/install-test-tools) over a folder, for tests.
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Daemon } from './daemon.ts'
import { fetchAll } from './http.ts'
import { freePorts } from './ports.ts'
import { findProgram } from './requirements.ts'
import { until } from './until.ts'

const ACCESS_KEY = 'shoaltest'
const SECRET_KEY = 'shoaltest-secret'

export interface ObjectStore {
  /** `http://127.0.0.1:port` */
  readonly endpoint: string
  /** Key in the format of `~/.aws/credentials`. */
  readonly credentialsFile: string
  readonly pid: number
  /** A new bucket, and what a registry needs to know of it. */
  bucket(name: string): { bucket: string; endpoint: string; credentialsFile: string }
  /** Makes everything in a bucket seem to have been written so long ago. */
  age(name: string, byMs: number): void
  /**
   * Puts an object into every folder below one. versitygw removes folders that have become empty, and fails a write into one
   * at that moment; real object stores have no folders.
   */
  keepFolders(name: string, below: string): void
  close(): Promise<void>
}

/** The name to give to `requires`. */
export const OBJECT_STORE = 'versitygw'

/** Starts one with no buckets; what is in it is gone when it is closed. */
export async function startObjectStore(): Promise<ObjectStore> {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-s3-'))
  const [buckets, sidecar] = [join(folder, 'buckets'), join(folder, 'meta')]
  mkdirSync(buckets)
  mkdirSync(sidecar)
  const credentialsFile = join(folder, 'credentials')
  writeFileSync(
    credentialsFile,
    `[default]\naws_access_key_id = ${ACCESS_KEY}\naws_secret_access_key = ${SECRET_KEY}\n`,
    { mode: 0o600 },
  )
  const [port = 0] = await freePorts(1)
  const options = ['--access', ACCESS_KEY, '--secret', SECRET_KEY, '--port', `127.0.0.1:${port}`]
  const daemon = new Daemon({
    name: 'versitygw',
    command: [
      findProgram(OBJECT_STORE) ?? OBJECT_STORE,
      ...options,
      '--keep-alive',
      '--quiet',
      'posix',
      '--sidecar',
      sidecar,
      buckets,
    ],
    logFile: join(folder, 'log'),
  })
  const close = async (): Promise<void> => {
    await daemon.stop()
    rmSync(folder, { recursive: true, force: true })
  }
  const endpoint = `http://127.0.0.1:${port}`
  try {
    // Unsigned requests are refused, once it is there to refuse them.
    const look = async () => !daemon.running || (await fetchAll(endpoint)).status === 403
    await until(look, { what: 'readiness of versitygw', deadlineMs: 30_000 })
    daemon.assertRunning()
  } catch (error) {
    await close()
    throw error
  }
  return {
    endpoint,
    credentialsFile,
    pid: daemon.pid,
    bucket: (name) => {
      mkdirSync(join(buckets, name))
      return { bucket: name, endpoint, credentialsFile }
    },
    age: (name, byMs) => {
      const then = new Date(Date.now() - byMs)
      for (const entry of readdirSync(join(buckets, name), { recursive: true, withFileTypes: true })) {
        if (entry.isFile()) utimesSync(join(entry.parentPath, entry.name), then, then)
      }
    },
    keepFolders: (name, below) => {
      for (const entry of readdirSync(join(buckets, name, below), { recursive: true, withFileTypes: true })) {
        if (entry.isDirectory()) writeFileSync(join(entry.parentPath, entry.name, '.keep'), 'keep')
      }
    },
    close,
  }
}
