import assert from 'node:assert/strict'
import test from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { digestOf } from '@shoal/oci'
import type { StoreRecords } from '@shoal/store'
import type { Swarm, TagFound, TagMemory, TagOutcome } from '@shoal/swarm'
import { UpstreamError, type RequestOptions, type Upstream, type UpstreamErrorCode } from '@shoal/upstream'
import { TagRecords, type TagRecord } from './tag-records.ts'
import { TagResolver } from './tag-resolver.ts'
import { silent } from './testing/agents.ts'

const TARGET = { registry: 'reg.test', repository: 'team/app' }
const KEY = 'reg.test/team/app:1'
const found = (text: string): TagFound => ({ digest: digestOf(text), mediaType: 'm', sizeBytes: text.length })

const remembered = (text: string, ageMs: number, peerId = 'agent'): TagMemory => ({ ...found(text), ageMs, peerId })

type Lookup = () => Promise<TagFound>
type Tracker = (lookup: Lookup, key: string) => Promise<TagOutcome<TagFound> | undefined>

function recordsIn(records: Map<string, TagRecord>): StoreRecords<TagRecord> {
  return {
    get: async (key) => records.get(key),
    put: async (key, value) => void records.set(key, value),
    delete: async (key) => void records.delete(key),
    entries: async function* () {
      yield* records
    },
  }
}

function setUp(options: { ttlMs?: number; tracker?: Tracker; agents?: TagMemory[]; manifestTimeoutMs?: number } = {}) {
  const records = new Map<string, TagRecord>()
  const asked: (string | undefined)[] = []
  const state = {
    records,
    asked,
    origin: async (_options: RequestOptions): Promise<TagFound> => found('fresh'),
    /** A GET at the origin. */
    got: (): Promise<never> => Promise.reject(new Error('the origin was asked with GET')),
    agents: async () => options.agents ?? [],
    tracker: options.tracker ?? (async () => undefined),
  }
  const resolver = new TagResolver({
    upstream: {
      headManifest: (_target: object, _tag: string, options: RequestOptions) => {
        asked.push(options.authorization)
        return state.origin(options)
      },
      headBlob: (_target: object, _digest: string, options: RequestOptions) => state.origin(options),
      getManifest: () => state.got(),
    } as unknown as Upstream,
    swarm: {
      trackers: { askTag: (key: string, lookup: Lookup) => state.tracker(lookup, key) },
      askTag: () => state.agents(),
    } as unknown as Swarm,
    records: new TagRecords(recordsIn(records), silent),
    ttlMs: options.ttlMs ?? 60_000,
    manifestTimeoutMs: options.manifestTimeoutMs ?? 10_000,
    logger: silent,
  })
  const resolve = (authorization?: string, signal = AbortSignal.timeout(20_000)) =>
    resolver.resolve(TARGET, '1', authorization === undefined ? { anonymous: true } : { authorization }, signal)
  return { resolver, resolve, ...state, state }
}

const failing = (code: UpstreamErrorCode) => async () => {
  throw new UpstreamError(code, 'reg.test', `reg.test said ${code}`)
}

test('the origin is asked, its answer is used again for a while and remembered for good', async () => {
  const { resolve, asked, records } = setUp()
  assert.deepEqual(await resolve(), { ...found('fresh'), stale: false })
  await resolve()
  assert.equal(asked.length, 1)
  assert.equal(records.get(KEY)?.digest, found('fresh').digest)
})

test('what is there as a blob is not known as a manifest: not from memory, the disk, the tracker, nor others', async () => {
  const digest = found('text').digest
  const keys: string[] = []
  const { resolver, records, state } = setUp({ agents: [{ ...remembered('text', 1), mediaType: '' }] })
  state.tracker = async (_lookup, key) => {
    keys.push(key)
    return { kind: 'told', found: { ...found('text'), mediaType: '' }, stale: false }
  }
  const ask = (kind: 'blob' | 'manifest') =>
    resolver.resolve(TARGET, digest, { anonymous: true }, AbortSignal.timeout(20_000), { kind })
  assert.equal((await ask('blob')).stale, false)
  state.origin = failing('NOT_FOUND')
  await assert.rejects(ask('manifest'), { code: 'NOT_FOUND' })
  const key = `reg.test/team/app@${digest}`
  assert.deepEqual(keys, [`blob ${key}`, key])
  assert.deepEqual([...records.keys()], [`blob ${key}`])
  // As nodes wrote it before they told the two apart.
  records.set(key, { ...found('text'), mediaType: '', seenMs: Date.now() })
  state.origin = failing('UNREACHABLE')
  await assert.rejects(ask('manifest'), { code: 'UNREACHABLE' })
  assert.equal((await ask('blob')).digest, digest)
})

test('who may not be given what was known before does not join a question of those who may', async () => {
  const { resolver, records, state } = setUp()
  records.set(KEY, { ...found('before'), seenMs: Date.now() })
  const { promise, resolve } = Promise.withResolvers<void>()
  state.origin = async () => {
    await promise
    throw new UpstreamError('UNREACHABLE', 'reg.test', 'it is down')
  }
  const ask = (fallback: boolean) =>
    resolver.resolve(TARGET, '1', { anonymous: true }, AbortSignal.timeout(20_000), { fallback })
  const [may, mayNot] = [ask(true), ask(false)]
  resolve()
  await assert.rejects(mayNot, { code: 'UNREACHABLE' })
  assert.deepEqual(await may, { ...found('before'), stale: true })
})

test('many who ask at once cost one question', async () => {
  const { resolve, asked } = setUp()
  const answers = await Promise.all([resolve(), resolve(), resolve()])
  assert.equal(asked.length, 1)
  assert.equal(new Set(answers.map(({ digest }) => digest)).size, 1)
})

test('who brings credentials gets the answer to these, and nobody else does', async () => {
  const { resolve, asked, state } = setUp()
  state.origin = async ({ authorization }) => {
    if (authorization === undefined) throw new UpstreamError('UNAUTHORIZED', 'reg.test', 'log in')
    return found(authorization)
  }
  const [one, two] = await Promise.all([resolve('Basic one'), resolve('Basic two')])
  assert.equal(one.digest, found('Basic one').digest)
  assert.equal(two.digest, found('Basic two').digest)
  await assert.rejects(resolve(), { code: 'UNAUTHORIZED' })
  assert.deepEqual(asked, ['Basic one', 'Basic two', undefined])
})

test('credentials never go through the tracker', async () => {
  const { resolve } = setUp({ tracker: () => Promise.reject(new Error('the tracker was asked')) })
  assert.equal((await resolve('Basic x')).stale, false)
})

test('what the tracker tells is used without asking the origin', async () => {
  const told = found('told')
  const { resolve, asked } = setUp({ tracker: async () => ({ kind: 'told', found: told, stale: false }) })
  assert.deepEqual(await resolve(), { ...told, stale: false })
  assert.equal(asked.length, 0)
})

test('a tracker that makes this node ask gets its way', async () => {
  const { resolve, asked } = setUp({ tracker: async (lookup) => ({ kind: 'own', found: await lookup() }) })
  assert.deepEqual(await resolve(), { ...found('fresh'), stale: false })
  assert.equal(asked.length, 1)
})

test('a stale answer of the tracker is marked, and not used again', async () => {
  const outcomes: TagOutcome<TagFound>[] = [
    { kind: 'told', found: found('old'), stale: true },
    { kind: 'told', found: found('new'), stale: false },
  ]
  const { resolve, records } = setUp({ tracker: async () => outcomes.shift() })
  assert.deepEqual(await resolve(), { ...found('old'), stale: true, isAnswered: true })
  assert.equal(records.size, 0)
  assert.deepEqual(await resolve(), { ...found('new'), stale: false })
})

for (const code of ['TIMEOUT', 'UNREACHABLE', 'SERVER_ERROR', 'RATE_LIMITED'] as const) {
  test(`${code}: the last digest that is known is used, marked as stale`, async () => {
    const { resolve, state } = setUp({ ttlMs: 0 })
    await resolve()
    state.origin = failing(code)
    // The answer may still be as young as a millisecond.
    let answer = await resolve()
    while (!answer.stale) {
      await turn()
      answer = await resolve()
    }
    assert.deepEqual([answer.digest, answer.stale], [found('fresh').digest, true])
    const isAnswered = code === 'SERVER_ERROR' || code === 'RATE_LIMITED'
    assert.equal(answer.isAnswered, isAnswered ? true : undefined)
  })

  test(`${code} and nobody knows the tag: the outage is told`, async () => {
    const { resolve, state } = setUp()
    state.origin = failing(code)
    await assert.rejects(resolve(), { code })
  })
}

for (const code of ['NOT_FOUND', 'UNAUTHORIZED', 'DENIED', 'REFUSED_BY_POLICY'] as const) {
  test(`${code} is passed on, whatever was known before`, async () => {
    const { resolve, records, state } = setUp({ agents: [remembered('agents', 1)] })
    records.set(KEY, { ...found('before'), seenMs: Date.now() })
    state.origin = failing(code)
    await assert.rejects(resolve(), { code })
  })
}

test('trouble with one tag, or one client, is no outage of the registry; the same question waits a while', async () => {
  for (const code of ['RATE_LIMITED', 'SERVER_ERROR'] as const) {
    const { resolver, resolve, records, asked, state } = setUp({ ttlMs: 0 })
    for (const tag of ['1', '2']) {
      records.set(`reg.test/team/app:${tag}`, { ...found('old'), seenMs: Date.now() })
    }
    state.origin = async ({ authorization }) => {
      if (authorization === 'Basic one') return found('fresh')
      throw new UpstreamError(code, 'reg.test', `reg.test said ${code}`)
    }
    assert.equal((await resolve()).stale, true)
    assert.equal((await resolve('Basic two')).stale, true)
    assert.equal((await resolve('Basic one')).stale, false)
    await Promise.all([resolve(), resolve(), resolve('Basic two')])
    assert.deepEqual(asked, [undefined, 'Basic two', 'Basic one'])
    state.origin = async () => found('fresh')
    const other = await resolver.resolve(TARGET, '2', { anonymous: true }, AbortSignal.timeout(20_000))
    assert.equal(other.stale, false)
  }
})

/** An origin that never answers. */
const hanging = ({ signal }: RequestOptions): Promise<never> =>
  new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
  })

test('an origin that is slow is waited for where nobody knows the tag, and not where somebody does', async () => {
  for (const isKnown of [true, false]) {
    const { resolve, state } = setUp({ manifestTimeoutMs: 1000 })
    const answered = Promise.withResolvers<TagFound>()
    // It answers just when there would be no more time for it.
    state.agents = async () => {
      if (isKnown) return [remembered('theirs', 5)]
      setImmediate(() => answered.resolve(found('fresh')))
      return []
    }
    state.origin = (options) => Promise.race([hanging(options), answered.promise])
    const { digest, stale } = await resolve()
    assert.deepEqual({ digest, stale }, { digest: found(isKnown ? 'theirs' : 'fresh').digest, stale: isKnown })
  }
})

test('an origin that hangs, and nobody knows the tag: that is told in the time for a manifest', async () => {
  const { resolve, state } = setUp({ manifestTimeoutMs: 1000 })
  state.origin = hanging
  await assert.rejects(resolve(), { code: 'TIMEOUT', message: /did not say within \d+ ms/ })
})

test('what an origin said before the time was over is told, not that it was over', async () => {
  const { resolve, state } = setUp({ manifestTimeoutMs: 1000 })
  // As a client of registries does that waits to ask again.
  state.origin = ({ signal }) =>
    new Promise((_resolve, reject) => {
      const limited = new UpstreamError('RATE_LIMITED', 'reg.test', 'slowly', { retryAfterMs: 5000 })
      signal.addEventListener('abort', () => reject(limited), { once: true })
    })
  await assert.rejects(resolve(), { code: 'RATE_LIMITED', retryAfterMs: 5000 })
})

test('why a tag that was there is not found is told by a GET, and asked only then', async () => {
  const { resolve, records, state } = setUp()
  state.origin = failing('NOT_FOUND')
  await assert.rejects(resolve(), { code: 'NOT_FOUND', saidCode: undefined })
  for (const saidCode of ['NAME_UNKNOWN', '']) {
    records.set(KEY, { ...found('before'), seenMs: Date.now() })
    state.got = () => Promise.reject(new UpstreamError('NOT_FOUND', 'reg.test', 'not here', { saidCode }))
    await assert.rejects(resolve(), { code: 'NOT_FOUND', saidCode })
    assert.equal(records.size, 0)
  }
  records.set(KEY, { ...found('before'), seenMs: Date.now() })
  state.got = () => Promise.reject(new UpstreamError('UNREACHABLE', 'reg.test', 'down'))
  await assert.rejects(resolve(), { code: 'NOT_FOUND' })
})

test('after a push, the pushed one is told in an outage, to everyone where everyone knew the tag', async () => {
  for (const isPublic of [true, false]) {
    const { resolver, resolve, records, state } = setUp()
    state.origin = async () => found('old')
    await resolve(isPublic ? undefined : 'Basic x')
    await resolver.changed(TARGET, '1', found('pushed'))
    state.origin = failing('UNREACHABLE')
    assert.equal((await resolve('Basic x')).digest, found('pushed').digest)
    assert.equal(records.get(KEY)?.digest, isPublic ? found('pushed').digest : undefined)
  }
})

test('a push goes on where the disk is failing', async () => {
  const { resolver, state } = setUp()
  const fail = () => {
    throw new Error('disk failing')
  }
  Object.assign(state.records, { get: fail, set: fail })
  await resolver.changed(TARGET, '1', found('pushed'))
})

test('what credentials are let into as a blob is not remembered', async () => {
  const { resolver, records } = setUp()
  const options = { kind: 'blob' } as const
  const ask = (requester: Pick<RequestOptions, 'anonymous' | 'authorization'>) =>
    resolver.resolve(TARGET, found('fresh').digest, requester, AbortSignal.timeout(20_000), options)
  await ask({ authorization: 'Basic x' })
  assert.equal(records.size, 0)
  await ask({ anonymous: true })
  assert.equal(records.size, 1)
})

test('of what this node and one other remember, the younger is used', async () => {
  for (const [ageMs, expected] of [
    [10, 'theirs'],
    [1e9, 'own'],
  ] as const) {
    const { resolve, records, state } = setUp({ agents: [remembered('theirs', ageMs)] })
    records.set(KEY, { ...found('own'), seenMs: Date.now() - 1e6 })
    state.origin = failing('UNREACHABLE')
    assert.equal((await resolve()).digest, found(expected).digest)
  }
})

test('one young answer among many does not say what a tag is: most count, this node among them', async () => {
  for (const [others, expected] of [
    [[remembered('lie', 0, 'liar'), remembered('own', 1e7, 'a')], 'own'],
    [[remembered('lie', 0, 'liar'), remembered('theirs', 1e7, 'a'), remembered('theirs', 1e7, 'b')], 'theirs'],
  ] as const) {
    const { resolve, records, state } = setUp({ agents: [...others] })
    records.set(KEY, { ...found('own'), seenMs: Date.now() - 1e6 })
    state.origin = failing('UNREACHABLE')
    assert.deepEqual(await resolve(), { ...found(expected), stale: true })
  }
})

test('a tracker that knows of the outage, and nothing else: others are asked what they remember', async () => {
  const tracker: Tracker = async () => ({ kind: 'failed', errorCode: 'TIMEOUT' })
  const { resolve, asked } = setUp({ tracker, agents: [remembered('theirs', 5)] })
  const answer = await resolve()
  assert.deepEqual({ digest: answer.digest, stale: answer.stale }, { digest: found('theirs').digest, stale: true })
  assert.equal(asked.length, 0)
})

test('a disk that takes nothing does not stop a pull', async () => {
  const { resolver, state } = setUp()
  state.records.set = () => {
    throw new Error('disk full')
  }
  const answer = await resolver.resolve(TARGET, '1', { anonymous: true }, AbortSignal.timeout(20_000))
  assert.equal(answer.stale, false)
})

test('what is known is told with its age', async () => {
  const { resolver, records } = setUp()
  assert.equal(await resolver.known(KEY), undefined)
  records.set(KEY, { ...found('x'), seenMs: Date.now() - 5000 })
  const known = await resolver.known(KEY)
  assert.ok(known !== undefined && known.ageMs >= 5000)
})
