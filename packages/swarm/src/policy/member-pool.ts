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

/** Members by zone. A member must keep its zone while it is in the pool. */
export class MemberPool<M extends { readonly zone: string }> {
  readonly #zones = new Map<string, IndexedSet<M>>()
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Members of one zone. */
  sizeOf(zone: string): number {
    return this.#zones.get(zone)?.size ?? 0
  }

  add(member: M): void {
    let zone = this.#zones.get(member.zone)
    if (zone === undefined) {
      zone = new IndexedSet()
      this.#zones.set(member.zone, zone)
    }
    const before = zone.size
    zone.add(member)
    this.#size += zone.size - before
  }

  delete(member: M): void {
    const zone = this.#zones.get(member.zone)
    if (zone === undefined) return
    const before = zone.size
    zone.delete(member)
    this.#size += zone.size - before
    if (zone.size === 0) this.#zones.delete(member.zone)
  }

  /** Up to `count` different usable members of a zone, in random order. */
  drawFrom(zone: string, count: number, usable: (member: M) => boolean, random: Random): M[] {
    return this.#zones.get(zone)?.draw(count, usable, random) ?? []
  }

  /** Up to `count` different usable members of all other zones together, in random order. */
  drawOutside(zone: string, count: number, usable: (member: M) => boolean, random: Random): M[] {
    const total = this.#size - this.sizeOf(zone)
    if (total === 0) return []
    const others = [...this.#zones].filter(([name]) => name !== zone).map(([, members]) => members)
    const at = (index: number): M | undefined => {
      let left = index
      for (const members of others) {
        if (left < members.size) return members.at(left)
        left -= members.size
      }
      return undefined
    }
    return drawSome(total, at, count, usable, random)
  }
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
