// docker's daemon.json, which belongs to the administrator: one entry is added to it, and the file as it was is kept.
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { CommandError } from '../exit-codes.ts'
import { readText, type FileChange } from './file-change.ts'
import { authorityNotes, type Plan, type Runtime, type Wish } from './runtime.ts'

const KEY = 'registry-mirrors'
const RELOAD = 'docker reads it after: systemctl reload docker (or kill -HUP of dockerd)'

type Settings = Record<string, unknown>

function files({ root }: Wish): { path: string; backup: string } {
  const path = join(root, 'etc/docker/daemon.json')
  return { path, backup: `${path}.before-shoal` }
}

/** @throws CommandError when the file is not what docker reads */
function parse(path: string, text: string | undefined): Settings {
  if (text === undefined || text.trim() === '') return {}
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new CommandError(`${path} is not valid JSON and is left as it is: ${(error as Error).message}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CommandError(`${path} is not a JSON object and is left as it is`)
  }
  return value as Settings
}

function mirrorsOf(path: string, settings: Settings): string[] {
  const list = settings[KEY] ?? []
  if (Array.isArray(list) && list.every((one) => typeof one === 'string')) return list
  throw new CommandError(`${path}: ${KEY} is not a list of texts; the file is left as it is`)
}

/** With the indentation that the file has. */
function render(settings: Settings, like: string | undefined): string {
  const indent = /^\{\r?\n([ \t]+)/.exec(like?.trimStart() ?? '')?.[1] ?? '  '
  return `${JSON.stringify(settings, null, indent)}\n`
}

function isMirror(text: string, mirror: URL): boolean {
  return URL.canParse(text) && new URL(text).origin === mirror.origin
}

export const docker: Runtime = {
  name: 'docker',
  programs: ['dockerd'],
  async plan(wish) {
    const { path, backup } = files(wish)
    const before = await readText(path)
    const settings = parse(path, before)
    const mirrors = mirrorsOf(path, settings)
    const notes = [
      'docker asks mirrors for Docker Hub only; other images: docker pull ' + `${wish.mirror.host}/ghcr.io/org/app:1`,
      ...authorityNotes(wish.mirror, `put it at /etc/docker/certs.d/${wish.mirror.host}/ca.crt`),
    ]
    if (mirrors.some((one) => isMirror(one, wish.mirror))) return { changes: [], notes }
    const kept = await readText(backup)
    const added = addedTo(mirrors, backup, kept)
    const others = added.length === 1 ? mirrors.filter((one) => !added.includes(one)) : mirrors
    if (added.length > 1) {
      notes.push(
        `${path} has ${added.join(', ')}, which were not there before Shoal: take out which is no mirror any more`,
      )
    }
    const after = render({ ...settings, [KEY]: [wish.mirror.origin, ...others] }, before)
    const changes: FileChange[] = [{ path, before, after }]
    // The backup goes first, so that there is no moment without one; an older one is what it was before Shoal. Where
    // there was no file it is empty: it tells what is Shoal's all the same.
    if (kept === undefined) changes.unshift({ path: backup, before: kept, after: before ?? '' })
    return { changes, notes: [...notes, RELOAD] }
  },
  async planUndo(wish) {
    const { path, backup } = files(wish)
    const before = await readText(path)
    const kept = await readText(backup)
    const removal: FileChange[] = kept === undefined ? [] : [{ path: backup, before: kept, after: undefined }]
    if (before === undefined) return { changes: removal, notes: [] }
    const settings = parse(path, before)
    const mirrors = mirrorsOf(path, settings)
    const others = mirrors.filter((one) => !isMirror(one, wish.mirror))
    if (others.length === mirrors.length) {
      // A mirror that was not there before may be Shoal's under another address, and then the backup is still needed.
      if (addedTo(mirrors, backup, kept).length === 0) return { changes: removal, notes: [] }
      const note = `${path} names no mirror ${wish.mirror.origin}; was another --mirror used?`
      return { changes: [], notes: [note] }
    }
    const { [KEY]: _, ...rest } = settings
    const left = others.length === 0 ? rest : { ...settings, [KEY]: others }
    const plan: Plan = { changes: [{ path, before, after: restored(path, left, before, kept) }], notes: [RELOAD] }
    plan.changes.push(...removal)
    return plan
  },
}

/** The mirrors that were not there before Shoal: its own of then, and what the administrator has added since. */
function addedTo(mirrors: string[], backup: string, kept: string | undefined): string[] {
  const old = kept === undefined ? mirrors : mirrorsOf(backup, parse(backup, kept))
  return mirrors.filter((one) => !old.includes(one))
}

/** Byte for byte as it was, where nothing else was changed since. */
function restored(path: string, left: Settings, before: string, kept: string | undefined): string | undefined {
  if (kept === undefined) return Object.keys(left).length === 0 ? undefined : render(left, before)
  const old = parse(path, kept)
  const emptied = Array.isArray(old[KEY]) && old[KEY].length === 0 ? { ...left, [KEY]: [] } : left
  if (!isDeepStrictEqual(old, emptied)) return render(left, before)
  return kept === '' ? undefined : kept
}
