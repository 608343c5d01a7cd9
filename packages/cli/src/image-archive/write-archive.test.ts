// Places where no archive can be written.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { digestOf } from '@shoal/oci'
import { readTree, type ImageSource } from '@shoal/origin/images'
import { makeImage, temporaryFolder, type TestImage } from '../commands/image/testing.ts'
import { CommandError } from '../exit-codes.ts'
import { writeArchive } from './write-archive.ts'

const MACHINE = { os: 'linux', architecture: 'amd64' }

function sourceOf({ contents }: TestImage, open?: ImageSource['open']): ImageSource {
  const read = ({ digest }: { digest: string }): Buffer => contents.get(digest as never) ?? Buffer.alloc(0)
  return {
    name: 'registry.example/team/app',
    manifest: (descriptor) => Promise.resolve(read(descriptor)),
    open: open ?? ((descriptor) => Promise.resolve(Readable.from([read(descriptor)], { objectMode: false }))),
  }
}

async function save(file: string, app: TestImage, open?: ImageSource['open']): Promise<void> {
  const { signal } = new AbortController()
  const source = sourceOf(app, open)
  const tree = await readTree(source, app.root, undefined, signal)
  const names = { full: 'registry.example/team/app:1', docker: undefined, tag: '1' }
  await writeArchive(file, { tree, source, names, machine: MACHINE }, () => undefined, signal)
}

function isRefusal(file: string): (error: unknown) => boolean {
  return (error) => error instanceof CommandError && error.message.startsWith(`${file} cannot be written: E`)
}

test('a file that cannot be written ends the command with the reason, whatever is in the image', async (t) => {
  const folder = await temporaryFolder(t)
  await writeFile(join(folder, 'plain'), '')
  for (const app of [makeImage(), makeImage('amd64', []), makeImage('amd64', [randomBytes(100)])]) {
    for (const file of [join(folder, 'none/x.tar'), join(folder, 'plain/x.tar'), '/proc/x.tar', folder]) {
      await assert.rejects(save(file, app), isRefusal(file), `${file}, ${app.layers.length} layers`)
    }
  }
  assert.deepEqual(await readdir(folder), ['plain'])
  const beside = (await readdir(join(folder, '..'))).filter((name) => name.includes('.partial-'))
  assert.deepEqual(beside, [])
})

test('a registry that is being waited for is let go when the file cannot be written', async (t) => {
  const file = join(await temporaryFolder(t), 'none/x.tar')
  const waiting: ImageSource['open'] = (_blob, _start, signal) =>
    new Promise((_resolve, reject) => {
      const end = (): void => reject(signal.reason as Error)
      if (signal.aborted) end()
      else signal.addEventListener('abort', end, { once: true })
    })
  await assert.rejects(save(file, makeImage(), waiting), isRefusal(file))
})

test('entries that wait for their turn when the file cannot be written', async (t) => {
  const file = join(await temporaryFolder(t), 'none/x.tar')
  const { signal } = new AbortController()
  const app = makeImage()
  const source = sourceOf(app)
  const { root } = await readTree(source, app.root, undefined, signal)
  // Each more than archive and file take at once, and nothing in between that would be waited for.
  const manifests = ['a', 'b', 'c'].map((letter) => {
    const bytes = Buffer.alloc(200_000, letter)
    return {
      ...root,
      descriptor: { ...root.descriptor, digest: digestOf(bytes), size: bytes.length },
      bytes,
      blobs: [],
    }
  })
  const names = { full: 'registry.example/team/app:1', docker: undefined, tag: '1' }
  const writing = writeArchive(
    file,
    { tree: { root, manifests }, source, names, machine: MACHINE },
    () => undefined,
    signal,
  )
  await assert.rejects(writing, isRefusal(file))
})
