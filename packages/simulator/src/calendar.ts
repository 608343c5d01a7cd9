// What is to happen when, in virtual time that moves in steps of equal length.

/** Slots of the ring; what lies further ahead waits in a list by its step. */
const RING_STEPS = 4096

/** Actions by step. Within a step they run in the order in which they were entered. */
export class Calendar {
  readonly stepMs: number
  readonly #ring: (() => void)[][] = Array.from({ length: RING_STEPS }, () => [])
  readonly #far = new Map<number, (() => void)[]>()
  #step = 0

  constructor(stepMs: number) {
    this.stepMs = stepMs
  }

  get step(): number {
    return this.#step
  }

  get nowMs(): number {
    return this.#step * this.stepMs
  }

  /** Enters an action `delayMs` from now, at the next step at the earliest. */
  after(delayMs: number, action: () => void): void {
    const step = this.#step + Math.max(1, Math.round(delayMs / this.stepMs))
    if (step - this.#step < RING_STEPS) this.#ring[step % RING_STEPS]!.push(action)
    else {
      const list = this.#far.get(step)
      if (list === undefined) this.#far.set(step, [action])
      else list.push(action)
    }
  }

  /** Moves on by one step and runs what is due. */
  advance(): void {
    this.#step++
    const far = this.#far.get(this.#step)
    if (far !== undefined) {
      this.#far.delete(this.#step)
      for (const action of far) action()
    }
    const due = this.#ring[this.#step % RING_STEPS]!
    for (const action of due) action()
    // Emptied, not replaced: lists are old by the time that they are filled, and one that is thrown away keeps all that it
    // names alive until the collector has been through the old generation.
    due.length = 0
  }
}
