// What nodes have said of tags. The word of one node may be a lie; what two nodes have said alike is confirmed, and goes
// to others (docs/decisions/0012-two-nodes-for-a-tag.md).
import type { TagAnswer } from '@shoal/network'
import { entryLimit } from '@shoal/oci'
import { LRUCache } from 'lru-cache'

/** References that are remembered. */
const KNOWN_TAGS = 100_000
/** Voices that are kept of one reference, beside the confirmed word. */
const VOICES = 4

/** What a tag is, and when a node said so. */
export type TagWord = Pick<TagAnswer, 'digest' | 'mediaType' | 'sizeBytes'> & { atMs: number }

type Voice = TagWord & { peerId: string }

interface Known {
  /** What two nodes have said alike; as old as the older of the two. */
  confirmed: TagWord | undefined
  /** The newest first, one for each node. All are younger than the confirmed word: older ones confirm nothing any more. */
  voices: Voice[]
}

/** The words of nodes about references. */
export class TagVoices {
  readonly #known = new LRUCache<string, Known>({ ...entryLimit(KNOWN_TAGS) })

  get size(): number {
    return this.#known.size
  }

  /**
   * A node that was asked says what a reference is. Of several pairs that agree, the one whose older voice is the youngest
   * counts: so nobody brings back with an old voice what a tag was before it moved.
   * @returns the confirmed word, if it is this voice that confirmed it
   */
  say(reference: string, peerId: string, word: TagWord): TagWord | undefined {
    const { confirmed, voices } = this.#known.get(reference) ?? { confirmed: undefined, voices: [] }
    const others = voices.filter((voice) => voice.peerId !== peerId)
    const alike = others.find((voice) => isSame(voice, word))
    const now = alike === undefined ? confirmed : { ...word, atMs: alike.atMs }
    const kept = [{ ...word, peerId }, ...others].filter(({ atMs }) => now === undefined || atMs > now.atMs)
    this.#known.set(reference, { confirmed: now, voices: kept.slice(0, VOICES) })
    return alike === undefined ? undefined : now
  }

  confirmed(reference: string): TagWord | undefined {
    return this.#known.get(reference)?.confirmed
  }

  /** What a node itself has said, unless something younger is confirmed. */
  of(reference: string, peerId: string): TagWord | undefined {
    return this.#known.get(reference)?.voices.find((voice) => voice.peerId === peerId)
  }

  /** Whether a voice since `sinceMs` waits for another one to confirm it. `except`: nodes that will speak again. */
  hasVoice(reference: string, sinceMs: number, except: { has(peerId: string): boolean }): boolean {
    const voices = this.#known.get(reference)?.voices ?? []
    return voices.some(({ atMs, peerId }) => atMs >= sinceMs && !except.has(peerId))
  }

  /**
   * The best that a node can be told while the origin does not answer: what it has said itself, else what is confirmed,
   * else what the last one said.
   */
  lastWord(reference: string, peerId: string): TagWord | undefined {
    const known = this.#known.get(reference)
    return this.of(reference, peerId) ?? known?.confirmed ?? known?.voices[0]
  }
}

function isSame(one: TagWord, other: TagWord): boolean {
  return one.digest === other.digest && one.sizeBytes === other.sizeBytes && one.mediaType === other.mediaType
}
