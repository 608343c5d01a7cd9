// Where libp2p keeps what other nodes tell it: who provides which blob, and how peers are reached. Both come from
// whoever likes to send them, so both are bounded. All is kept in memory only: what an earlier run was told may not
// be true any more. Provider records are kept by blob, for libp2p's own look through all records to find those of one blob.
import { BaseDatastore, MemoryDatastore } from 'datastore-core'
import { Key, type KeyQuery, type Pair, type Query } from 'interface-datastore'
import { peerIdFromCID } from '@libp2p/peer-id'
import { CID } from 'multiformats/cid'

const PROVIDERS = '/dht/provider/'
const PEERS = '/peers/'

export interface DhtDatastoreLimits {
  /** Records that one provider may have here: its oldest goes when there are more. @default 8192 */
  recordsPerProvider: number
  /** Records of all providers: one of whoever has most goes when there are more. @default 131072 */
  records: number
  /** Peers that are remembered: the oldest goes. @default 50000 */
  peers: number
}

const LIMITS: DhtDatastoreLimits = { recordsPerProvider: 8192, records: 131_072, peers: 50_000 }

export class DhtDatastore extends BaseDatastore {
  readonly #inner = new MemoryDatastore()
  readonly #limits: DhtDatastoreLimits
  /** By blob, then by provider. */
  readonly #providers = new Map<string, Map<string, Uint8Array>>()
  /** The blobs of each provider, the oldest first. */
  readonly #blobs = new Map<string, Set<string>>()
  /** Keys of peers in the inner store, the oldest first. */
  readonly #peers = new Set<string>()
  #records = 0

  constructor(limits: Partial<DhtDatastoreLimits> = {}) {
    super()
    this.#limits = { ...LIMITS, ...limits }
  }

  /** Provider records that are kept. */
  get providerRecords(): number {
    return this.#records
  }

  override async put(key: Key, value: Uint8Array): Promise<Key> {
    const record = providerKey(key)
    if (record !== undefined) {
      this.#add(record.blob, record.provider, value)
      return key
    }
    if (key.toString().startsWith(PEERS)) await this.#notePeer(key)
    return await this.#inner.put(key, value)
  }

  override async get(key: Key): Promise<Uint8Array> {
    const record = providerKey(key)
    const value = record && this.#providers.get(record.blob)?.get(record.provider)
    // The inner store has no such record, and the right error for it.
    return value ?? (await this.#inner.get(key))
  }

  override async has(key: Key): Promise<boolean> {
    const record = providerKey(key)
    if (record === undefined) return await this.#inner.has(key)
    return this.#providers.get(record.blob)?.has(record.provider) === true
  }

  override async delete(key: Key): Promise<void> {
    const record = providerKey(key)
    if (record !== undefined) {
      this.#remove(record.blob, record.provider)
      return
    }
    this.#peers.delete(key.toString())
    // kad-dht answers with nothing at all for a blob of which it does not know one of the providers any more.
    const peer = peerOf(key)
    if (peer !== undefined) for (const blob of this.#blobs.get(peer) ?? []) this.#remove(blob, peer)
    await this.#inner.delete(key)
  }

  override async *_all(query: Query): AsyncGenerator<Pair> {
    const { prefix = '' } = query
    if (isOfProviders(prefix)) yield* this.#recordsUnder(prefix)
    else yield* this.#inner.query({ prefix })
  }

  override async *_allKeys(query: KeyQuery): AsyncGenerator<Key> {
    const { prefix = '' } = query
    if (!isOfProviders(prefix)) yield* this.#inner.queryKeys({ prefix })
    else for (const { key } of this.#recordsUnder(prefix)) yield key
  }

  *#recordsUnder(prefix: string): Generator<Pair> {
    const [blob = ''] = prefix.slice(PROVIDERS.length).split('/')
    // Records may go while somebody reads them.
    for (const each of blob === '' ? [...this.#providers.keys()] : [blob]) {
      for (const [provider, value] of [...(this.#providers.get(each) ?? [])]) {
        yield { key: new Key(`${PROVIDERS}${each}/${provider}`, false), value }
      }
    }
  }

  #add(blob: string, provider: string, value: Uint8Array): void {
    let blobs = this.#blobs.get(provider)
    if (blobs === undefined) this.#blobs.set(provider, (blobs = new Set<string>()))
    // Said again, it is the youngest.
    if (!blobs.delete(blob)) this.#records++
    blobs.add(blob)
    let providers = this.#providers.get(blob)
    if (providers === undefined) this.#providers.set(blob, (providers = new Map<string, Uint8Array>()))
    providers.set(provider, value)
    if (blobs.size > this.#limits.recordsPerProvider) this.#removeOldest(provider)
    if (this.#records > this.#limits.records) this.#removeOldest(this.#largestProvider())
  }

  #removeOldest(provider: string): void {
    const [oldest] = this.#blobs.get(provider) ?? []
    if (oldest !== undefined) this.#remove(oldest, provider)
  }

  #largestProvider(): string {
    let largest = ''
    let most = 0
    for (const [provider, { size }] of this.#blobs) if (size > most) [largest, most] = [provider, size]
    return largest
  }

  #remove(blob: string, provider: string): void {
    const blobs = this.#blobs.get(provider)
    if (blobs?.delete(blob) !== true) return
    this.#records--
    if (blobs.size === 0) this.#blobs.delete(provider)
    const providers = this.#providers.get(blob)
    providers?.delete(provider)
    if (providers?.size === 0) this.#providers.delete(blob)
  }

  async #notePeer(key: Key): Promise<void> {
    const name = key.toString()
    this.#peers.delete(name)
    this.#peers.add(name)
    if (this.#peers.size <= this.#limits.peers) return
    const [oldest] = this.#peers
    if (oldest !== undefined) await this.delete(new Key(oldest, false))
  }
}

function isOfProviders(prefix: string): boolean {
  return `${prefix}/`.startsWith(PROVIDERS)
}

/** The peer id of a peer's key, which has it as a CID. */
function peerOf(key: Key): string | undefined {
  const text = key.toString()
  if (!text.startsWith(PEERS)) return undefined
  try {
    const cid: Parameters<typeof peerIdFromCID>[0] = CID.parse(text.slice(PEERS.length))
    return peerIdFromCID(cid).toString()
  } catch {
    return undefined
  }
}

function providerKey(key: Key): { blob: string; provider: string } | undefined {
  const text = key.toString()
  if (!text.startsWith(PROVIDERS)) return undefined
  const [blob = '', provider = ''] = text.slice(PROVIDERS.length).split('/')
  return { blob, provider }
}
