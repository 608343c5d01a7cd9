// Answers that break off, never end, or are another program's.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { makeCertificates } from '@shoal/upstream/testing-certificates'
import { ApiClient } from './api-client.ts'
import { CommandError, EXIT_USAGE } from './exit-codes.ts'
import { runCommand } from './program.ts'
import { listening } from './testing.ts'

const AGENT = { who: 'agent', option: '--admin', example: 'http://127.0.0.1:7703' }

/** All commands that read a whole answer. */
function commandsAt(url: string): [string[], string][] {
  return [
    [['status', '--admin', url], 'agent'],
    [['pins', '--admin', url], 'agent'],
    [['unpin', 'alpine', '--admin', url], 'agent'],
    [['preheat', 'alpine', '--tracker', url], 'tracker'],
  ]
}

async function failure(args: string[]): Promise<string> {
  let err = ''
  const code = await runCommand(args, { out: () => undefined, err: (text) => (err += text) })
  assert.equal(code, 1, args.join(' '))
  assert.doesNotMatch(err, /\n {4}at /, 'no stack')
  return err
}

test('an answer that is cut within ends with the reason', async (t) => {
  const url = await listening(t, (_request, response) => {
    response.writeHead(200, { 'content-length': 1000 })
    response.write('{"store": ', () => response.socket?.destroy())
  })
  for (const [args, who] of commandsAt(url)) {
    assert.match(await failure(args), new RegExp(`^shoal: the ${who} broke off: .+\n$`))
  }
})

test('an answer that stands still ends with the reason', async (t) => {
  const url = await listening(t, (_request, response) => void response.writeHead(200).write('{'))
  const answer = new ApiClient(url, AGENT, {}).json('x', { method: 'GET', silenceMs: 50 })
  await assert.rejects(answer, (error) => error instanceof CommandError && /^the agent broke off/.test(error.message))
})

test('JSON that is not that of the program that is asked for is told from it', async (t) => {
  for (const body of ['{}', '{"store": null, "pins": null, "counts": null}', '[]', '7']) {
    const url = await listening(t, (_request, response) => response.end(body))
    for (const [args, who] of commandsAt(url)) assert.match(await failure(args), new RegExp(`not that of an? ${who}: `))
  }
})

/** An agent's API with TLS, which answers with an empty list of pins. */
async function listeningTls(t: TestContext, options: https.ServerOptions): Promise<string> {
  const server = https.createServer(options, (_request, response) => response.end('{"pins": []}'))
  server.on('tlsClientError', () => undefined)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return `https://127.0.0.1:${(server.address() as AddressInfo).port}`
}

test('a failure of TLS is told from an agent that does not run', async (t) => {
  const { server, folder } = await makeCertificates(t)
  const ca = ['--tls-ca', join(folder, 'ca.pem')]
  const open = await listeningTls(t, server)
  const closed = await listeningTls(t, { ...server, requestCert: true, rejectUnauthorized: true })
  const plain = await listening(t, (_request, response) => response.end('{"pins": []}'))
  assert.match(
    await failure(['pins', '--admin', open]),
    /^shoal: the agent at \S+ \(\w+\) cannot be talked to; --tls-ca says who signed/,
  )
  const cases: [string, string[]][] = [
    [open.replace('https', 'http'), []],
    [plain.replace('http', 'https'), []],
    [closed, ca],
  ]
  for (const [url, flags] of cases) {
    const told = await failure(['pins', '--admin', url, ...flags])
    assert.match(told, /--tls-cert/, url)
    assert.doesNotMatch(told, /is "shoal agent" running/, url)
  }
  assert.match(await failure(['pins', '--admin', open.replace('https', 'http')]), /must it be https:\/\/, or/)
  assert.match(await failure(['pins', '--admin', plain.replace('http', 'https')]), /must it be http:\/\/, or/)
})

test('a client certificate without its key, or a key alone, is refused', async () => {
  for (const [flag, missing] of [
    ['--tls-cert', '--tls-key'],
    ['--tls-key', '--tls-cert'],
  ] as const) {
    let err = ''
    const code = await runCommand(['pins', flag, '/nonexistent.pem'], {
      out: () => undefined,
      err: (text) => (err += text),
    })
    assert.deepEqual([code, err], [EXIT_USAGE, `shoal: ${flag} is of no use without ${missing}: give both\n`])
  }
})
