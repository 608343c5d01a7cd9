// Members of a swarm, arranged so that a random few of them can be drawn at a cost that does not grow with the swarm: a
// tracker does this for every node that joins and every lease that it grants.
import type { Random } from './parameters.ts'

/** A draw that meets many members that will not do is given up after so many times the number that is wanted. */
const MISSES_FACTOR = 4

/** A set whose elements can be reached by their number. Numbers change when elements go. */
export class IndexedSet<T> {
  readonly #items: T[] = []
  readonly #places = new Map<T, number>()

  get size(): number {
    return this.#items.length
  }

  has(item: T): boolean {
    return this.#places.has(item)
  }

  at(index: number): T | undefined {
    return this.#items[index]
  }

  /** Number of an element; -1 when it is not here. */
  indexOf(item: T): number {
    return this.#places.get(item) ?? -1
  }

  add(item: T): void {
    if (this.#places.has(item)) return
    this.#places.set(item, this.#items.length)
    this.#items.push(item)
  }

  delete(item: T): void {
    const place = this.#places.get(item)
    if (place === undefined) return
    this.#places.delete(item)
    const last = this.#items.pop()
    if (last === undefined || last === item) return
    this.#items[place] = last
    this.#places.set(last, place)
  }

  /** Up to `count` different elements that are usable, in random order. */
  draw(count: number, usable: (item: T) => boolean, random: Random): T[] {
    return drawSome(this.#items.length, (index) => this.#items[index], count, usable, random)
  }
}

/** Members of one zone. Their degrees lie side by side: whoever compares many of them touches little memory. */
class Zone<M> {
  readonly members = new IndexedSet<M>()
  #degrees = new Uint32Array(64)

  add(member: M): void {
    if (this.members.has(member)) return
    const place = this.members.size
    if (place === this.#degrees.length) {
      const wider = new Uint32Array(place * 2)
      wider.set(this.#degrees)
      this.#degrees = wider
    }
    this.#degrees[place] = 0
    this.members.add(member)
  }

  delete(member: M): void {
    const place = this.members.indexOf(member)
    if (place < 0) return
    // The last one takes the place of the one that goes.
    this.#degrees[place] = this.#degrees[this.members.size - 1]!
    this.members.delete(member)
  }

  degreeAt(place: number): number {
    return this.#degrees[place]!
  }

  raiseDegree(member: M): void {
    const place = this.members.indexOf(member)
    if (place >= 0) this.#degrees[place]!++
  }
}

/**
 * Members by zone, with the degree of each: how often it has been named as a neighbour, or has been given some. A member must
 * keep its zone while it is in the pool.
 */
export class MemberPool<M extends { readonly zone: string }> {
  readonly #zones = new Map<string, Zone<M>>()
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Members of one zone. */
  sizeOf(zone: string): number {
    return this.#zones.get(zone)?.members.size ?? 0
  }

  /** Its degree is 0 at first. */
  add(member: M): void {
    let zone = this.#zones.get(member.zone)
    if (zone === undefined) {
      zone = new Zone()
      this.#zones.set(member.zone, zone)
    }
    const before = zone.members.size
    zone.add(member)
    this.#size += zone.members.size - before
  }

  delete(member: M): void {
    const zone = this.#zones.get(member.zone)
    if (zone === undefined) return
    const before = zone.members.size
    zone.delete(member)
    this.#size += zone.members.size - before
    if (zone.members.size === 0) this.#zones.delete(member.zone)
  }

  /** 0 for one that is not in the pool. */
  degreeOf(member: M): number {
    const zone = this.#zones.get(member.zone)
    const place = zone?.members.indexOf(member) ?? -1
    return place < 0 ? 0 : zone!.degreeAt(place)
  }

  /** A member that is in the pool has one neighbour more. */
  raiseDegree(member: M): void {
    this.#zones.get(member.zone)?.raiseDegree(member)
  }

  /** Up to `count` different usable members of a zone, in random order. */
  drawFrom(zone: string, count: number, usable: (member: M) => boolean, random: Random): M[] {
    return this.#zones.get(zone)?.members.draw(count, usable, random) ?? []
  }

  /**
   * Up to `count` members of a zone with the lowest degrees, in order, ties random: of `sample` members, and of as many more as
   * are excluded.
   */
  leastConnected(zone: string, sample: number, count: number, excluded: ReadonlySet<M>, random: Random): M[] {
    const within = this.#zones.get(zone)
    return within === undefined ? [] : leastConnected([within], sample, count, excluded, random)
  }

  /** The same of all other zones together. */
  leastConnectedOutside(zone: string, sample: number, count: number, excluded: ReadonlySet<M>, random: Random): M[] {
    if (this.#size === this.sizeOf(zone)) return []
    const others = [...this.#zones].filter(([name]) => name !== zone).map(([, members]) => members)
    return leastConnected(others, sample, count, excluded, random)
  }
}

function leastConnected<M>(
  zones: readonly Zone<M>[],
  sample: number,
  count: number,
  excluded: ReadonlySet<M>,
  random: Random,
): M[] {
  const total = zones.reduce((sum, { members }) => sum + members.size, 0)
  const drawn = drawSome(
    total,
    (place) => place,
    sample + excluded.size,
    () => true,
    random,
  )
  // Sorted by degree, and of equals by when they were drawn: so ties are random. A member itself is looked at when it is chosen.
  const order = new Float64Array(drawn.length)
  for (let draw = 0; draw < drawn.length; draw++) order[draw] = at(zones, drawn[draw]!, degreeOf) * drawn.length + draw
  order.sort()
  const least: M[] = []
  for (let rank = 0; rank < order.length && least.length < count; rank++) {
    const member = at(zones, drawn[order[rank]! % drawn.length]!, memberOf)!
    if (!excluded.has(member)) least.push(member)
  }
  return least
}

const degreeOf = (zone: Zone<unknown>, place: number): number => zone.degreeAt(place)
const memberOf = <M>(zone: Zone<M>, place: number): M | undefined => zone.members.at(place)

/** Reads something of the member at a place among those of all these zones. */
function at<M, R>(zones: readonly Zone<M>[], place: number, read: (zone: Zone<M>, within: number) => R): R {
  let within = place
  for (const zone of zones) {
    if (within < zone.members.size) return read(zone, within)
    within -= zone.members.size
  }
  throw new RangeError(`no member ${place} in ${zones.length} zones`)
}

/**
 * Draws without putting back: a Fisher–Yates shuffle (Durstenfeld 1964) of which only the first steps are carried out, with
 * the places that were swapped in a table instead of a copy of the whole.
 */
function drawSome<T>(
  total: number,
  at: (index: number) => T | undefined,
  count: number,
  usable: (item: T) => boolean,
  random: Random,
): T[] {
  const drawn: T[] = []
  const tries = Math.min(total, count * (1 + MISSES_FACTOR))
  const moved = tries <= SwappedPlaces.MOST ? swapped.cleared() : new Map<number, number>()
  for (let step = 0; step < tries && drawn.length < count; step++) {
    const place = step + Math.floor(random() * (total - step))
    const item = at(moved.get(place) ?? place)
    moved.set(place, moved.get(step) ?? step)
    if (item !== undefined && usable(item)) drawn.push(item)
  }
  return drawn
}

/**
 * A table of numbers by numbers, with open addressing, used again for every draw: a Map for each was half of what a draw
 * cost. So nothing that a draw calls may draw itself.
 */
class SwappedPlaces {
  /** Entries that it takes: a quarter of its slots, so that few lookups meet another entry. */
  static readonly MOST = 1024
  readonly #keys = new Int32Array(4 * SwappedPlaces.MOST)
  readonly #values = new Int32Array(4 * SwappedPlaces.MOST)
  /** Slots in use. */
  readonly #used: number[] = []

  cleared(): this {
    for (const slot of this.#used) this.#keys[slot] = 0
    this.#used.length = 0
    return this
  }

  get(key: number): number | undefined {
    const slot = this.#slotOf(key)
    return this.#keys[slot] === 0 ? undefined : this.#values[slot]
  }

  set(key: number, value: number): void {
    const slot = this.#slotOf(key)
    if (this.#keys[slot] === 0) this.#used.push(slot)
    this.#keys[slot] = key + 1
    this.#values[slot] = value
  }

  /** The slot of a key, or the free one where it belongs. Keys are stored plus one: zero means free. */
  #slotOf(key: number): number {
    const mask = this.#keys.length - 1
    let slot = Math.imul(key, 0x9e3779b1) & mask
    while (this.#keys[slot] !== 0 && this.#keys[slot] !== key + 1) slot = (slot + 1) & mask
    return slot
  }
}

const swapped = new SwappedPlaces()
