// Keeps apart those who rely on what is stored and those who clear away what nobody needs. Whatever a push relies on is
// marked as used by its time of modification; what was not used for the time of grace may go. Within a process a lock
// for each path closes the gap between looking and removing; between processes the grace does, and that both look again.
import { KeyedLock } from '@shoal/store'
import type { ObjectStat, StorageDriver } from '../storage/driver.ts'

/** How long what nobody refers to stays, if nobody says otherwise. */
export const DEFAULT_GRACE_MS = 86_400_000

/** Nobody removes what he has looked at longer ago than this. */
const LONGEST_REMOVAL_MS = 300_000

export class Retention {
  readonly graceMs: number
  readonly #driver: StorageDriver
  readonly #lock = new KeyedLock<string>()

  constructor(driver: StorageDriver, graceMs: number = DEFAULT_GRACE_MS) {
    this.#driver = driver
    this.graceMs = graceMs
  }

  /**
   * What is at `path`, which stays there for half the grace at least. Undefined when there is nothing (any more).
   * Marking is a write, so it is left out while the last one is fresh enough.
   */
  async use(path: string): Promise<ObjectStat | undefined> {
    return this.alone(path, async () => {
      const found = await this.#driver.stat(path)
      if (!found || Date.now() - found.modifiedMs < this.graceMs / 2) return found
      return (await this.#driver.touch(path)) ? found : undefined
    })
  }

  /**
   * Whether another process may have looked at what `use` has found before it was marked, and remove it nevertheless. Who
   * relies on it then looks again.
   */
  mayBeGoing({ modifiedMs }: ObjectStat): boolean {
    const ageMs = Date.now() - modifiedMs
    return ageMs < LONGEST_REMOVAL_MS || ageMs >= this.graceMs / 2
  }

  /** As the driver's `write`, but never in the middle of a removal. */
  async write(path: string, bytes: Uint8Array): Promise<void> {
    await this.alone(path, () => this.#driver.write(path, bytes))
  }

  /** True if it was removed: nobody has used it after `usedBeforeMs` (since the epoch). */
  async removeUnused(path: string, usedBeforeMs: number): Promise<boolean> {
    return this.alone(path, async () => {
      const found = await this.#driver.stat(path)
      if (!found || found.modifiedMs > usedBeforeMs) return false
      return this.#driver.remove(path)
    })
  }

  /** Runs what must not overlap with a removal of `path`. */
  alone<T>(path: string, work: () => Promise<T>): Promise<T> {
    return this.#lock.run(path, work)
  }
}
