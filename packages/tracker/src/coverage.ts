// Which chunks of a blob are somewhere in its swarm, and in which zones, by the word of its members.
import { ZoneBooks } from '@shoal/swarm'
import type { Member } from './member.ts'

/** The copies of one blob's chunks. */
export class Coverage {
  readonly chunkCount: number
  readonly zones: ZoneBooks
  /** Members known to have each chunk; complete members are counted apart. */
  readonly #copies: Uint32Array
  /** When a chunk got its first copy, in milliseconds. */
  readonly #coveredMs: Float64Array
  #completeMembers = 0

  constructor(chunkCount: number) {
    this.chunkCount = chunkCount
    this.zones = new ZoneBooks(chunkCount)
    this.#copies = new Uint32Array(chunkCount)
    this.#coveredMs = new Float64Array(chunkCount)
  }

  get completeMembers(): number {
    return this.#completeMembers
  }

  /** Chunks that are somewhere in the swarm. */
  get count(): number {
    if (this.#completeMembers > 0) return this.chunkCount
    let covered = 0
    for (const copies of this.#copies) if (copies > 0) covered++
    return covered
  }

  /** Whether a member that is not complete has the chunk. */
  hasCopy(chunk: number): boolean {
    return this.#copies[chunk]! > 0
  }

  /** How many members that are not complete have the chunk. */
  copiesOf(chunk: number): number {
    return this.#copies[chunk]!
  }

  /** When the chunk got its first copy last, in milliseconds. */
  coveredMs(chunk: number): number {
    return this.#coveredMs[chunk]!
  }

  /** A member has a chunk. Returns whether that is news. Of a discredited one it is noted, and counts for nobody else. */
  cover(member: Member, chunk: number, nowMs: number): boolean {
    if (!member.chunks.add(chunk)) return false
    if (member.discredited) return true
    if (this.#copies[chunk]!++ === 0) this.#coveredMs[chunk] = nowMs
    this.zones.copies(member.zone, chunk, 1)
    return true
  }

  /** A member does not have a chunk any more. Returns whether it was the last copy. */
  uncover(member: Member, chunk: number): boolean {
    if (!member.chunks.delete(chunk) || member.discredited) return false
    this.zones.copies(member.zone, chunk, -1)
    return --this.#copies[chunk]! === 0
  }

  /** A member has the whole blob, or does not count as having it any more. */
  setComplete(member: Member, complete: boolean): void {
    if (member.complete === complete) return
    member.complete = complete
    this.#completeMembers += complete ? 1 : -1
    this.zones.complete(member.zone, complete ? 1 : -1)
  }

  /** Nothing of what a member has counts any more. Returns the chunks of which it had the last copy. */
  forget(member: Member): number[] {
    this.setComplete(member, false)
    if (member.chunksTold === 0) return []
    return [...member.chunks.indices()].filter((chunk) => this.uncover(member, chunk))
  }
}
