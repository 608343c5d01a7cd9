// Which repositories there are in a place: read once from its folders, and kept right by those who add and remove. Where other
// processes do so, too, it is read again every so often.
import * as layout from './layout.ts'
import type { StorageDriver } from './storage/driver.ts'
import { sideBySide } from './storage/side-by-side.ts'

/** How long the list is believed, once it was read, where other processes add to it. */
const SHARED_NAMES_FRESH_MS = 10_000

export class RepositoryNames {
  readonly #driver: StorageDriver
  readonly #exists: (name: string) => Promise<boolean>
  /** With whether they show a manifest. */
  #names: Promise<Map<string, boolean>> | undefined
  #readMs = 0

  /** @param exists - whether a repository shows a manifest */
  constructor(driver: StorageDriver, exists: (name: string) => Promise<boolean>) {
    this.#driver = driver
    this.#exists = exists
  }

  /** Keeps the list right, if it was read. */
  note(name: string, shown?: boolean): void {
    this.#names?.then((names) => names.set(name, shown ?? names.get(name) ?? false)).catch(() => undefined)
  }

  /** All of them, with whether they show a manifest. */
  known(): Promise<ReadonlyMap<string, boolean>> {
    if (this.#driver.isShared && Date.now() - this.#readMs > SHARED_NAMES_FRESH_MS) this.#names = undefined
    this.#names ??= this.#read().catch((error: unknown) => {
      this.#names = undefined
      throw error
    })
    return this.#names
  }

  async #read(): Promise<Map<string, boolean>> {
    // However long it takes, it is not begun anew before it has ended.
    this.#readMs = Infinity
    const names: string[] = []
    for (let level = ['']; level.length > 0;) {
      const folders = await sideBySide(level, (name) => this.#driver.list(repositoryFolder(name)))
      const next: string[] = []
      for (const [at, entries] of folders.entries()) {
        const name = level[at] as string
        const inside = entries.filter((entry) => entry.isFolder).map((entry) => entry.name)
        if (inside.some((folder) => folder.startsWith('_'))) names.push(name)
        const parts = inside.filter((folder) => !folder.startsWith('_'))
        next.push(...parts.map((part) => (name === '' ? part : `${name}/${part}`)))
      }
      level = next
    }
    const shown = await sideBySide(names, (name) => this.#exists(name))
    this.#readMs = Date.now()
    return new Map(names.map((name, at) => [name, shown[at] as boolean]))
  }
}

/** @param name - a repository, or the first parts of some; empty for that of all */
function repositoryFolder(name: string): string {
  return name === '' ? layout.repositoriesFolder() : `${layout.repositoriesFolder()}/${name}`
}
