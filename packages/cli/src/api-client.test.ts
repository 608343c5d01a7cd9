// Answers that break off, never end, or are another program's.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ApiClient } from './api-client.ts'
import { CommandError } from './exit-codes.ts'
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
