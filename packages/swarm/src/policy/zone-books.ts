// Which chunks of a blob each zone has, and which it lacks that another zone could give: what zone leases are granted by.
// A tracker keeps one of these for each blob. With a single zone it costs a counter for each chunk.
import { ChunkMap } from '@shoal/store'

interface ZoneBook {
  members: number
  completeMembers: number
  /** Incomplete members of the zone that have each chunk. */
  readonly copies: Uint32Array
  /** Leases, of either kind, under which a member of the zone is fetching each chunk. */
  readonly promised: Uint16Array
  /** Chunks that another zone has, this one has not, and nobody of this one is fetching under a lease. */
  readonly wanted: ChunkMap
}

/** The books of one blob. Zones without members are forgotten. */
export class ZoneBooks {
  readonly #chunkCount: number
  readonly #zones = new Map<string, ZoneBook>()
  /** All chunks are to be judged anew: once before the next look, however often zones or what is whole there change until then. */
  #isStale = false
  /** Of a zone that is empty now: a member that goes and comes for ever would have new ones made each time. */
  #spare: ZoneBook | undefined

  constructor(chunkCount: number) {
    this.#chunkCount = chunkCount
  }

  /** Zones that have members. */
  get size(): number {
    return this.#zones.size
  }

  joins(zone: string): void {
    let book = this.#zones.get(zone)
    if (book === undefined) {
      book = this.#spare ?? {
        members: 0,
        completeMembers: 0,
        copies: new Uint32Array(this.#chunkCount),
        promised: new Uint16Array(this.#chunkCount),
        wanted: new ChunkMap(this.#chunkCount),
      }
      this.#spare = undefined
      this.#zones.set(zone, book)
      this.#isStale = true
    }
    book.members++
  }

  /** A member leaves whose copies, completeness and leases have been taken back already. */
  leaves(zone: string): void {
    const book = this.#book(zone)
    if (--book.members > 0) return
    this.#zones.delete(zone)
    this.#spare = book
  }

  /** A member has a chunk (`by` 1), or has it no longer (-1). */
  copies(zone: string, chunk: number, by: 1 | -1): void {
    const { copies } = this.#book(zone)
    const before = copies[chunk]!
    copies[chunk] = before + by
    // Only the first copy and the last one make a difference, and only to others or among several.
    if ((before === 0 || before + by === 0) && this.#zones.size > 1) this.#judge(chunk)
  }

  /** A member has the whole blob (`by` 1), or no longer counts as having it (-1). */
  complete(zone: string, by: 1 | -1): void {
    const book = this.#book(zone)
    const before = book.completeMembers
    book.completeMembers = before + by
    if (before === 0 || book.completeMembers === 0) this.#isStale = true
  }

  /** A member fetches a chunk under a lease (`by` 1), or the lease is over (-1). */
  promises(zone: string, chunk: number, by: 1 | -1): void {
    this.#book(zone).promised[chunk]! += by
    if (this.#zones.size > 1) this.#judge(chunk)
  }

  /** Whether a member of the zone is fetching a chunk under a lease. */
  isPromised(zone: string, chunk: number): boolean {
    return this.#book(zone).promised[chunk]! > 0
  }

  /** Zones that lack something which another has. */
  lacking(): string[] {
    // A single zone lacks nothing that another has.
    if (this.#zones.size < 2) return []
    this.#refresh()
    return [...this.#zones].filter(([, { wanted }]) => wanted.count > 0).map(([zone]) => zone)
  }

  /** Chunks that another zone has, this one has not, and nobody of this one is fetching under a lease. */
  wanted(zone: string): ChunkMap {
    this.#refresh()
    return this.#book(zone).wanted
  }

  /** Members of a zone that do not have the whole blob. */
  incompleteMembers(zone: string): number {
    const { members, completeMembers } = this.#book(zone)
    return members - completeMembers
  }

  #book(zone: string): ZoneBook {
    const book = this.#zones.get(zone)
    if (book === undefined) throw new Error(`zone ${zone} has no members`)
    return book
  }

  #refresh(): void {
    if (!this.#isStale) return
    this.#isStale = false
    for (let chunk = 0; chunk < this.#chunkCount; chunk++) this.#judge(chunk)
  }

  #judge(chunk: number): void {
    let having = 0
    for (const book of this.#zones.values()) if (hasChunk(book, chunk)) having++
    for (const book of this.#zones.values()) {
      if (having > 0 && !hasChunk(book, chunk) && book.promised[chunk] === 0) book.wanted.add(chunk)
      else book.wanted.delete(chunk)
    }
  }
}

function hasChunk(book: ZoneBook, chunk: number): boolean {
  return book.completeMembers > 0 || book.copies[chunk]! > 0
}
