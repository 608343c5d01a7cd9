// The pipeline of a node: how many chunk requests may be under way, all its downloads together.

/** Someone who wants to make requests. */
export interface BudgetHolder {
  /** Called when a slot has become free: now is the time to try again. */
  wake(): void
}

/**
 * Shares request slots among downloads. Each download may always have one request under way, so that a small blob
 * never waits behind a large one; beyond that they share `limit`.
 */
export class RequestBudget {
  limit: number
  readonly #held = new Map<BudgetHolder, number>()
  #used = 0

  constructor(limit: number) {
    this.limit = limit
  }

  join(holder: BudgetHolder): void {
    this.#held.set(holder, 0)
  }

  leave(holder: BudgetHolder): void {
    this.#used -= this.#held.get(holder) ?? 0
    this.#held.delete(holder)
    this.#wakeOthers(holder)
  }

  /** Takes a slot; false when there is none. */
  take(holder: BudgetHolder): boolean {
    const held = this.#held.get(holder)
    if (held === undefined || !this.canTake(holder)) return false
    this.#held.set(holder, held + 1)
    this.#used++
    return true
  }

  canTake(holder: BudgetHolder): boolean {
    const held = this.#held.get(holder) ?? 0
    return held === 0 || this.#used < this.limit
  }

  /** Gives a slot back. */
  give(holder: BudgetHolder): void {
    const held = this.#held.get(holder)
    if (held === undefined || held === 0) return
    this.#held.set(holder, held - 1)
    this.#used--
    this.#wakeOthers(holder)
  }

  #wakeOthers(except: BudgetHolder): void {
    for (const holder of this.#held.keys()) if (holder !== except) holder.wake()
  }
}
