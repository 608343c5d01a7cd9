// Certificates of the origin in chaos runs: one that holds, valid long enough for clocks that are wrong by an hour, and
// one that has expired. Made by the openssl command.
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { findProgram } from '../support/requirements.ts'

/** Days before now that the certificates begin to hold. */
const DAYS_BEFORE = 3

/** Fills a folder with ca.pem, server.pem, server.key and expired.pem for the name; gives back the folder. */
export function makeOriginCertificates(folder: string, name: string): string {
  mkdirSync(folder, { recursive: true })
  const openssl = (...args: string[]): void => {
    const command = ['-f', `-${DAYS_BEFORE}d`, findProgram('openssl') ?? 'openssl', ...args]
    const done = spawnSync(findProgram('faketime') ?? 'faketime', command, { cwd: folder, encoding: 'utf8' })
    if (done.status !== 0) throw new Error(`openssl ${args.join(' ')}: ${done.stderr || done.error?.message}`)
  }
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '30', '-subj', '/CN=Test authority')
  openssl('req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', `/CN=${name}`)
  writeFileSync(join(folder, 'names'), `subjectAltName=DNS:${name}\n`)
  for (const [file, days] of [
    ['server.pem', 30],
    ['expired.pem', 1],
  ] as const) {
    const signing = ['x509', '-req', '-in', 'server.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial']
    openssl(...signing, '-out', file, '-days', String(days), '-extfile', 'names')
  }
  return folder
}
