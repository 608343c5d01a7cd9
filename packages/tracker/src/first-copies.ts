// Chunks that members of one swarm have brought from the origin under leases, until another member has got them from there: what
// shows who gives nobody what it has fetched.
import { spreadPatienceMs, usualTime, withholds } from '@shoal/swarm'
import type { Member } from './member.ts'

interface FirstCopy {
  readonly member: Member
  readonly sinceMs: number
}

/** The first copies of one blob. */
export class FirstCopies {
  /** Those that nobody else has got, the oldest first. Of who withholds, they stay here, though they count for nobody. */
  readonly #alone = new Map<number, FirstCopy>()
  readonly #withholders = new Set<Member>()
  readonly #spreadOf = new WeakMap<Member, number>()
  readonly #isFetching: (member: Member, chunk: number) => boolean
  #spread = 0
  /** Moving average of the time until there is a second copy, in milliseconds. */
  #usualSpreadMs = 0

  /** @param isFetching whether a member is fetching a chunk from the origin: then it has not got it from the first copy */
  constructor(isFetching: (member: Member, chunk: number) => boolean) {
    this.#isFetching = isFetching
  }

  /** A member has fetched a chunk under a lease, which nobody else has. */
  brought(chunk: number, member: Member, nowMs: number): void {
    if (!this.#alone.has(chunk)) this.#alone.set(chunk, { member, sinceMs: nowMs })
  }

  /** A member has a chunk by now. Returns who has given it, if that was held for withholding until now. */
  covered(chunk: number, by: Member, nowMs: number): Member | undefined {
    const first = this.#alone.get(chunk)
    if (first === undefined || first.member === by) return undefined
    const { member, sinceMs } = first
    this.#alone.delete(chunk)
    if (this.#isFetching(by, chunk)) return undefined
    this.#spreadOf.set(member, this.#spreadBy(member) + 1)
    this.#spread++
    this.#usualSpreadMs = usualTime(this.#usualSpreadMs, nowMs - sinceMs)
    return this.#withholders.delete(member) ? member : undefined
  }

  /** A member has all chunks. Returns those that were held for withholding until now. */
  allCovered(by: Member, nowMs: number): Member[] {
    const cleared = [...this.#alone.keys()].map((chunk) => this.covered(chunk, by, nowMs))
    return cleared.filter((member) => member !== undefined)
  }

  /** A chunk that was there has lost its last copy. */
  uncovered(chunk: number): void {
    const first = this.#alone.get(chunk)
    if (first !== undefined && !this.#withholders.has(first.member)) this.#alone.delete(chunk)
  }

  /** A member is gone. */
  left(member: Member): void {
    this.#withholders.delete(member)
    for (const [chunk, first] of this.#alone) if (first.member === member) this.#alone.delete(chunk)
  }

  /**
   * Members that turn out to withhold what they fetch: each is told of once.
   * @param usualChunkMs what a chunk takes from the origin; 0 while unknown
   */
  withholders(nowMs: number, usualChunkMs: number): Member[] {
    if (this.#spread === 0) return []
    const dueMs = nowMs - spreadPatienceMs(usualChunkMs, this.#usualSpreadMs)
    const alone = new Map<Member, number>()
    let all = 0
    for (const { member, sinceMs } of this.#alone.values()) {
      if (sinceMs > dueMs) break
      if (this.#withholders.has(member)) continue
      alone.set(member, (alone.get(member) ?? 0) + 1)
      all++
    }
    const found = [...alone.keys()].filter((member) => {
      const own = { spread: this.#spreadBy(member), alone: alone.get(member)! }
      return withholds(own, { spread: this.#spread - own.spread, alone: all - own.alone })
    })
    for (const member of found) this.#withholders.add(member)
    return found
  }

  #spreadBy(member: Member): number {
    return this.#spreadOf.get(member) ?? 0
  }
}
