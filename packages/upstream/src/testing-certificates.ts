// Certificates for tests: an authority, a server for 127.0.0.1 and localhost, a client. Made by the openssl command.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface TestCertificates {
  ca: string
  server: { cert: string; key: string; ca: string }
  client: { cert: string; key: string }
  /** The folder with `ca.pem`, `client.pem` and `client.key`; goes with the test. */
  folder: string
}

export async function makeCertificates(t: TestContext): Promise<TestCertificates> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-certificates-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const at = (name: string): string => join(folder, name)
  const openssl = (...args: string[]) => run('openssl', args, { cwd: folder })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await writeFile(at('names'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
  await openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    'ca.key',
    '-out',
    'ca.pem',
    '-days',
    '2',
    '-subj',
    '/CN=Test authority',
  )
  for (const name of ['server', 'client']) {
    await openssl('req', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`)
    const signing = ['x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial']
    await openssl(...signing, '-out', `${name}.pem`, '-days', '2', '-extfile', 'names')
  }
  const read = (name: string): Promise<string> => readFile(at(name), 'utf8')
  const ca = await read('ca.pem')
  return {
    ca,
    server: { cert: await read('server.pem'), key: await read('server.key'), ca },
    client: { cert: await read('client.pem'), key: await read('client.key') },
    folder,
  }
}
