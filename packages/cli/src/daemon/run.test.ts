import assert from 'node:assert/strict'
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { describe, it, type TestContext } from 'node:test'
import { isHarmless } from './harmless.ts'
import { adviceFor } from './run.ts'

interface Line {
  msg: string
  level: number
  advice?: string
  err?: { message: string }
}

/** Runs the fixture; `until` waits for a line of its log. */
function start(t: TestContext, ...args: string[]) {
  const child: ChildProcess = fork(new URL('run.fixture.ts', import.meta.url), args, { silent: true })
  t.after(() => child.kill('SIGKILL'))
  const lines: Line[] = []
  const waiting: { text: string; resolve: (line: Line) => void }[] = []
  assert.ok(child.stdout)
  const output = createInterface(child.stdout).on('line', (text) => {
    const line = JSON.parse(text) as Line
    lines.push(line)
    for (const wait of waiting) if (line.msg.includes(wait.text)) wait.resolve(line)
  })
  // Not 'close': Node does not emit it after disconnect().
  const exited = Promise.all([once(child, 'exit'), once(output, 'close')]).then(([[code]]) => code as number | null)
  const until = (text: string) =>
    Promise.race([
      new Promise<Line>((resolve) => {
        const there = lines.find((line) => line.msg.includes(text))
        if (there) resolve(there)
        else waiting.push({ text, resolve })
      }),
      exited.then(() => {
        const there = lines.find((line) => line.msg.includes(text))
        return there ?? assert.fail(`it ended without "${text}": ${JSON.stringify(lines)}`)
      }),
    ])
  return { child, lines, until, exitCode: () => exited }
}

describe('runDaemon', () => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(`closes and ends with 0 on ${signal}`, async (t) => {
      const { child, until, exitCode } = start(t, 'plain')
      await until('up')
      child.kill(signal)
      await until('closing')
      await until('stopped')
      assert.equal(await exitCode(), 0)
    })
  }

  it('ends with 1 when closing takes too long', async (t) => {
    const { child, until, exitCode } = start(t, 'never-closes')
    await until('up')
    child.kill('SIGTERM')
    await until('not everything finished in time')
    assert.equal(await exitCode(), 1)
  })

  it('ends at once with 1 on a second signal', async (t) => {
    const { child, until, exitCode } = start(t, 'never-closes-patiently')
    await until('up')
    child.kill('SIGTERM')
    await until('closing')
    child.kill('SIGINT')
    await until('ending at once')
    assert.equal(await exitCode(), 1)
  })

  it('stops when the process that started it goes away', async (t) => {
    const { child, until, exitCode } = start(t, 'plain')
    await until('up')
    child.disconnect()
    await until('stopped')
    assert.equal(await exitCode(), 0)
  })

  it('lets a start finish before it closes', async (t) => {
    const { child, lines, until, exitCode } = start(t, 'slow-start')
    await until('starting slowly')
    child.kill('SIGTERM')
    await until('told to stop')
    assert.ok(!lines.some(({ msg }) => msg === 'closing'))
    child.kill('SIGHUP')
    await until('closing')
    assert.equal(await exitCode(), 0)
    assert.ok(!lines.some(({ msg }) => msg === 'up'))
  })

  it('ends with 1 and the reason when it cannot start', async (t) => {
    const { until, exitCode } = start(t, 'cannot-start')
    assert.equal((await until('cannot run')).err?.message, 'no good')
    assert.equal(await exitCode(), 1)
  })

  it('says which key to change when a port is taken', async (t) => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close())
    const { port } = server.address() as AddressInfo
    const { until, exitCode } = start(t, 'port-taken', String(port))
    assert.match((await until('is in use')).advice ?? '', /change mirrorPort/)
    assert.equal(await exitCode(), 1)
  })

  it('ends with 1 on an unhandled rejection', async (t) => {
    const { until, exitCode } = start(t, 'rejects', 'TypeError')
    assert.equal((await until('a fault in Shoal')).level, 60)
    assert.equal(await exitCode(), 1)
  })

  it('goes on after a rejection that js-libp2p leaves behind', async (t) => {
    const { child, until, exitCode } = start(t, 'rejects', 'StreamResetError')
    assert.equal((await until('a stream ended')).level, 40)
    child.kill('SIGTERM')
    assert.equal(await exitCode(), 0)
  })
})

describe('isHarmless', () => {
  it('asks for the stack where the name is common', () => {
    const error = new Error('aborted')
    error.name = 'AbortError'
    assert.equal(isHarmless(error), false)
    error.stack = 'AbortError: aborted\n    at x (file:///app/node_modules/@libp2p/kad-dht/dist/src/query.js:1:1)'
    assert.equal(isHarmless(error), true)
  })

  it('takes nothing but errors', () => {
    assert.equal(isHarmless('AbortError'), false)
    assert.equal(isHarmless(undefined), false)
    assert.equal(isHarmless(new TypeError('x is not a function')), false)
  })
})

describe('adviceFor', () => {
  it('knows a path that this user may not use', () => {
    const error = Object.assign(new Error('EACCES'), { code: 'EACCES', path: '/var/lib/shoal', syscall: 'mkdir' })
    assert.match(adviceFor(error, {}) ?? '', /may not use \/var\/lib\/shoal/)
  })

  it('says nothing about what it does not know', () => assert.equal(adviceFor(new Error('x'), {}), undefined))
})
