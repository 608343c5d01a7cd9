// The whole demo, small, as people run it: what it says, what it leaves behind (nothing).
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, readdir, readlink, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { describe, it, type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePorts } from './ports.ts'
import { Processes } from './processes.ts'

const COMMAND = fileURLToPath(new URL('../../bin/shoal.ts', import.meta.url))

/** Processes whose standard output goes to a file in the folder: the demo's daemons, and nobody else's. */
async function daemonsOf(directory: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const outputs = await Promise.all(pids.map((pid) => readlink(`/proc/${pid}/fd/1`).catch(() => '')))
  return pids.filter((_, index) => outputs[index]?.startsWith(directory)).map(Number)
}

/** The processes of others can only be looked at again and again: until they are as wanted, or clearly never will be. */
async function waitForDaemons(directory: string, wanted: (pids: number[]) => boolean): Promise<void> {
  const signal = AbortSignal.timeout(60_000)
  while (!wanted(await daemonsOf(directory))) await delay(10, undefined, { signal })
}

async function allGone(directory: string): Promise<void> {
  await waitForDaemons(directory, (pids) => pids.length === 0)
}

async function startDemo(t: TestContext, ...args: string[]) {
  const directory = await mkdtemp(join(tmpdir(), 'shoal-demo-test-'))
  const child: ChildProcess = spawn(process.execPath, [COMMAND, 'demo', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: directory },
  })
  t.after(async () => {
    child.kill('SIGKILL')
    for (const pid of await daemonsOf(directory)) process.kill(pid, 'SIGKILL')
    await rm(directory, { recursive: true, force: true })
  })
  let text = ''
  const waiting: { pattern: RegExp; resolve: () => void }[] = []
  for (const stream of [child.stdout, child.stderr]) {
    assert.ok(stream)
    createInterface(stream).on('line', (line) => {
      text += `${line}\n`
      for (const { pattern, resolve } of waiting) if (pattern.test(text)) resolve()
    })
  }
  const exited = once(child, 'close').then(([code]) => code as number | null)
  const until = (pattern: RegExp) =>
    Promise.race([
      new Promise<void>((resolve) => (pattern.test(text) ? resolve() : waiting.push({ pattern, resolve }))),
      exited.then(() => assert.match(text, pattern)),
    ])
  return { child, directory, until, exited, text: () => text }
}

describe('shoal demo', () => {
  it('rolls an image out, tells where the bytes came from, and leaves nothing behind', async (t) => {
    const { directory, exited, text } = await startDemo(t, '--agents', '3', '--image', '2MiB')
    assert.equal(await exited, 0, text())
    assert.match(text(), /^agent-3 .* right$/m)
    assert.match(text(), /3 nodes have an image of/)
    assert.match(text(), /The origin sent .*: \d+\.\d\d times the image/)
    assert.deepEqual(await daemonsOf(directory), [])
    assert.deepEqual(await readdir(directory), [])
  })

  it('stays up with --keep until it is interrupted, and shows how to pull', async (t) => {
    const { child, directory, until, exited, text } = await startDemo(t, '--agents', '1', '--image', '1MiB', '--keep')
    await until(/logs and data/)
    const [, port] = /docker pull 127\.0\.0\.1:(\d+)\/demo\/app:1\.0/.exec(text()) ?? []
    const answer = await fetch(`http://127.0.0.1:${port}/v2/demo/app/manifests/1.0`, { headers: { accept: '*/*' } })
    assert.equal(answer.status, 200)
    await answer.body?.cancel()
    const [, page = ''] = /with a browser: (\S+)/.exec(text()) ?? []
    assert.match(await (await fetch(page)).text(), /Shoal tracker/)
    child.kill('SIGINT')
    assert.equal(await exited, 0, text())
    assert.deepEqual(await daemonsOf(directory), [])
    assert.deepEqual(await readdir(directory), [])
  })

  it('takes its daemons along when it is killed', async (t) => {
    const { child, directory, exited } = await startDemo(t, '--agents', '1', '--image', '1MiB', '--keep')
    // The first are still starting at this moment, which is the hardest one.
    await waitForDaemons(directory, (pids) => pids.length > 0)
    child.kill('SIGKILL')
    await exited
    await allGone(directory)
  })
})

describe('Processes', () => {
  const start = async (t: TestContext, script: string) => {
    const directory = await mkdtemp(join(tmpdir(), 'shoal-processes-'))
    const processes = new Processes(directory, ['-e', script, '--'])
    t.after(async () => {
      await processes.close()
      await rm(directory, { recursive: true })
    })
    return { processes, managed: await processes.start('one', ['argument']) }
  }

  it('tells when a process ends before it is ready, and shows its last words', async (t) => {
    const { processes, managed } = await start(t, 'console.log("last words"); process.exit(3)')
    const [port] = await freePorts(1)
    const ready = processes.ready(managed, `http://127.0.0.1:${port}/readyz`, new AbortController().signal)
    await assert.rejects(ready, /one ended: exit code 3/)
    assert.match(await processes.tails(5), /--- one \(exit code 3\)\nlast words/)
    assert.deepEqual(processes.ended(), [managed])
  })

  it('stops waiting when it is told to', async (t) => {
    const { processes, managed } = await start(t, 'setInterval(() => {}, 1000)')
    const [port] = await freePorts(1)
    const ready = processes.ready(managed, `http://127.0.0.1:${port}/readyz`, AbortSignal.timeout(100))
    await assert.rejects(ready, { name: /AbortError|TimeoutError/ })
  })

  it('keeps the settings of Shoal and proxies out of what it starts', async (t) => {
    process.env['SHOAL_ZONE'] = 'x'
    t.after(() => delete process.env['SHOAL_ZONE'])
    const { managed } = await start(t, 'console.log(process.env.SHOAL_ZONE ?? "none")')
    if (managed.ended === undefined) await once(managed.child, 'exit')
    assert.equal(await readFile(managed.logFile, 'utf8'), 'none\n')
  })
})
