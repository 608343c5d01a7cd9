import assert from 'node:assert/strict'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite, test, type TestContext } from 'node:test'
import { inspect } from 'node:util'
import fc from 'fast-check'
import { generateSwarmKey, loadSwarmKeys, parseSwarmKeys, swarmKeyMistakes, SwarmKeys } from './swarm-key.ts'

async function keyFile(t: TestContext, text: string, mode = 0o600): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'shoal-key-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  const path = join(folder, 'swarm.key')
  await writeFile(path, text)
  await chmod(path, mode)
  return path
}

suite('swarm key', () => {
  test('a generated key is read back, and no two are the same', () => {
    const [a, b] = [generateSwarmKey(), generateSwarmKey()]
    assert.notEqual(a, b)
    const keys = parseSwarmKeys(`# old one\n\n${a}\r\n  ${b}\n`, 'the test')
    assert.deepEqual(
      keys.map((key) => `shoal-swarm-key-v1:${Buffer.from(key).toString('base64')}`),
      [a, b],
    )
  })

  test('files are read in order, the first key is the one in use', async (t) => {
    const [a, b, c] = [generateSwarmKey(), generateSwarmKey(), generateSwarmKey()]
    const both = await loadSwarmKeys([await keyFile(t, `${a}\n${b}\n`), await keyFile(t, c, 0o440)])
    const only = async (key: string): Promise<SwarmKeys> => loadSwarmKeys([await keyFile(t, key)])
    const parts = ['label', new Uint8Array([1, 2])]
    assert.equal((await only(a)).accepts(parts, both.prove(parts)), true)
    assert.equal((await only(b)).accepts(parts, both.prove(parts)), false)
    for (const key of [a, b, c]) assert.equal(both.accepts(parts, (await only(key)).prove(parts)), true)
    assert.equal(both.accepts(parts, (await only(generateSwarmKey())).prove(parts)), false)
  })

  test('files that others may read or change are refused, with what to do', async (t) => {
    for (const mode of [0o644, 0o604, 0o660, 0o620]) {
      const path = await keyFile(t, generateSwarmKey(), mode)
      await assert.rejects(loadSwarmKeys([path]), { name: 'SwarmKeyError', message: /chmod 600/ })
    }
  })

  test('one loose file among several is refused by its name, whichever it is', async (t) => {
    const paths = await Promise.all([0o600, 0o440, 0o600].map((mode) => keyFile(t, generateSwarmKey(), mode)))
    await loadSwarmKeys(paths)
    for (const loose of paths) {
      await chmod(loose, 0o644)
      await assert.rejects(loadSwarmKeys(paths), (error: Error) => {
        assert.equal(error.name, 'SwarmKeyError')
        assert.ok(error.message.includes(`${loose} has mode 644`) && error.message.includes(`"chmod 600 ${loose}"`))
        return true
      })
      await chmod(loose, 0o600)
    }
  })

  test('what is no key is named by line, and never printed', async (t) => {
    const good = generateSwarmKey()
    const secret = Buffer.alloc(31, 7).toString('base64')
    for (const bad of [
      `shoal-swarm-key-v1:${secret}`,
      secret,
      `${good}x`,
      good.replace('v1', 'v2'),
      good.slice(0, -1),
    ]) {
      const path = await keyFile(t, `${good}\n${bad}\n`)
      await assert.rejects(loadSwarmKeys([path]), (error: Error) => {
        assert.equal(error.name, 'SwarmKeyError')
        assert.match(error.message, /Line 2 of/)
        assert.ok(!error.message.includes(bad) && !error.message.includes(good))
        return true
      })
    }
    await assert.rejects(loadSwarmKeys([await keyFile(t, '# nothing\n')]), /holds no key/)
    await assert.rejects(loadSwarmKeys(['/nowhere/swarm.key']), { name: 'SwarmKeyError' })
    await assert.rejects(loadSwarmKeys([]), /shoal key new/)
  })

  test('each file that cannot be used is told by its place; a key in place of a file is not shown', async (t) => {
    const key = generateSwarmKey()
    const [good, open] = [await keyFile(t, key), await keyFile(t, key, 0o644)]
    const mistakes = await swarmKeyMistakes([good, open, '/nowhere/swarm.key', `/etc/shoal/${key}`])
    assert.deepEqual(
      mistakes.map(({ key: name, below, message }) => [name, below, /chmod|ENOENT|name the file/.exec(message)?.[0]]),
      [
        ['swarmKeyFiles', [1], 'chmod'],
        ['swarmKeyFiles', [2], 'ENOENT'],
        ['swarmKeyFiles', [3], 'name the file'],
      ],
    )
    assert.ok(!JSON.stringify(mistakes).includes(key.slice(-20)))
  })

  test('no two lists of parts have the same proof, and proofs of a wrong length are refused', () => {
    const keys = new SwarmKeys([new Uint8Array(32).fill(1)])
    const list = fc.array(fc.string({ maxLength: 4 }), { maxLength: 4 })
    fc.assert(
      fc.property(list, list, (a, b) => {
        assert.equal(keys.accepts(b, keys.prove(a)), JSON.stringify(a) === JSON.stringify(b))
      }),
    )
    for (const length of [0, 31, 33]) assert.equal(keys.accepts(['x'], new Uint8Array(length)), false)
  })

  test('keys do not get into logs', () => {
    const keys = new SwarmKeys([new Uint8Array(32).fill(0x41)])
    for (const text of [inspect(keys), inspect({ keys }, { depth: 9, showHidden: true }), JSON.stringify({ keys })]) {
      assert.ok(!/AAAA|41, ?41|65, ?65|41 41/.test(text), text)
      assert.match(text, /1 swarm keys/)
    }
  })
})
