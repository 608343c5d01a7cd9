// Questions to trackers and to other agents, with channels that only keep what is sent.
import assert from 'node:assert/strict'
import test from 'node:test'
import type { ControlPlane } from '@shoal/network'
import { digestOf } from '@shoal/oci'
import { UpstreamError } from '@shoal/upstream'
import { SizeQuestions } from './size-questions.ts'
import { TagAsker } from './tag-asker.ts'
import { mostNamed, TagQuestions, type TagMemory } from './tag-questions.ts'
import { FakeChannel } from './testing/channels.ts'

const digest = digestOf('manifest')
const REFERENCE = 'docker.io/library/app:1'
const LONG = 20_000
const found = { digest, mediaType: 'm', sizeBytes: 5 }
const never = () => Promise.reject(new Error('nobody was to look it up'))

function tagAnswer(requestId: number, more: object = {}) {
  return {
    type: 'tag-answer',
    requestId,
    reference: REFERENCE,
    ...found,
    stale: false,
    errorCode: '',
    ...more,
  } as const
}

test('a tracker tells what a tag is', async () => {
  const asker = new TagAsker()
  const channel = new FakeChannel('tracker')
  const asking = asker.ask(channel, REFERENCE, never, LONG)
  const [question] = channel.take('tag-ask')
  asker.receive(tagAnswer(question!.requestId, { stale: true }))
  assert.deepEqual(await asking, { kind: 'told', found, stale: true })
})

test('a tracker that cannot tell says why', async () => {
  const asker = new TagAsker()
  const channel = new FakeChannel('tracker')
  const asking = asker.ask(channel, REFERENCE, never, LONG)
  asker.receive(tagAnswer(1, { digest: '', errorCode: 'TIMEOUT' }))
  assert.deepEqual(await asking, { kind: 'failed', errorCode: 'TIMEOUT' })
})

test('a tracker makes this node look it up, once, and gets the result', async () => {
  const asker = new TagAsker()
  const channel = new FakeChannel('tracker')
  let lookups = 0
  const lookup = async () => {
    lookups++
    return { ...found, extra: true }
  }
  const asking = asker.ask(channel, REFERENCE, lookup, LONG)
  asker.receive({ type: 'tag-lookup', requestId: 1, reference: REFERENCE })
  asker.receive({ type: 'tag-lookup', requestId: 1, reference: REFERENCE })
  assert.deepEqual(await asking, { kind: 'own', found: { ...found, extra: true } })
  assert.equal(lookups, 1)
  assert.deepEqual(channel.take('tag-result'), [
    { type: 'tag-result', requestId: 1, reference: REFERENCE, ...found, errorCode: '' },
  ])
})

test('an own lookup that fails with an answer is told to the tracker and thrown as it is', async () => {
  const asker = new TagAsker()
  const channel = new FakeChannel('tracker')
  const failure = new UpstreamError('NOT_FOUND', 'docker.io', 'no such tag')
  const asking = asker.ask(channel, REFERENCE, () => Promise.reject(failure), LONG)
  asker.receive({ type: 'tag-lookup', requestId: 1, reference: REFERENCE })
  await assert.rejects(asking, failure)
  assert.equal(channel.take('tag-result')[0]?.errorCode, 'NOT_FOUND')
})

test('a tracker that is silent is given up, one that is lost at once', async () => {
  const asker = new TagAsker()
  const channel = new FakeChannel('tracker')
  assert.equal(await asker.ask(channel, REFERENCE, never, 5), undefined)
  const asking = asker.ask(channel, REFERENCE, never, LONG)
  asker.failAll(channel)
  assert.equal(await asking, undefined)
})

test('a lookup that is under way outlives the tracker', async () => {
  const asker = new TagAsker()
  const channel = new FakeChannel('tracker')
  const gate = Promise.withResolvers<typeof found>()
  const asking = asker.ask(channel, REFERENCE, () => gate.promise, LONG)
  asker.receive({ type: 'tag-lookup', requestId: 1, reference: REFERENCE })
  asker.failAll(channel)
  gate.resolve(found)
  assert.equal((await asking)?.kind, 'own')
})

test('answers that nobody asked for change nothing', () => {
  const asker = new TagAsker()
  asker.receive(tagAnswer(77))
  asker.receive({ type: 'tag-lookup', requestId: 77, reference: REFERENCE })
})

// ---- other agents -----------------------------------------------------------------------------------------------

const known = (requestId: number, ageMs: number, of: typeof digest | '' = digest) =>
  ({ type: 'tag-known', requestId, digest: of, mediaType: 'm', sizeBytes: 5, ageMs }) as const

test('what agents know of a tag is told when all have answered, one answer for each', async () => {
  const agents = ['a', 'b', 'c'].map((peerId) => new FakeChannel(peerId))
  const questions = new TagQuestions(() => agents)
  const asking = questions.ask(REFERENCE, LONG)
  const other = digestOf('younger')
  questions.answered('a', known(1, 500))
  questions.answered('a', known(1, 1, digestOf('the second word of the same agent')))
  questions.answered('stranger', known(1, 0, digestOf('the word of a stranger')))
  questions.answered('b', known(1, 100, other))
  questions.answered('c', known(1, 0, ''))
  assert.deepEqual(await asking, [
    { ...found, ageMs: 500, peerId: 'a' },
    { ...found, digest: other, ageMs: 100, peerId: 'b' },
  ])
})

test('agents that do not answer are not waited for beyond the limit; without agents nobody is', async () => {
  const agents = [new FakeChannel('a'), new FakeChannel('b')]
  const questions = new TagQuestions(() => agents)
  const asking = questions.ask(REFERENCE, 20)
  questions.answered('a', known(1, 500))
  assert.deepEqual(
    (await asking).map(({ ageMs }) => ageMs),
    [500],
  )
  assert.deepEqual(await new TagQuestions(() => []).ask(REFERENCE, LONG), [])
})

test('what most nodes remember counts, however young another answer is; of as many the youngest', () => {
  const memory = (peerId: string, text: string, ageMs: number) => ({ ...found, peerId, digest: digestOf(text), ageMs })
  const named = (...answers: TagMemory[]) => mostNamed(answers)?.digest
  assert.equal(named(), undefined)
  assert.equal(named(memory('a', 'x', 9), memory('b', 'y', 8)), digestOf('y'))
  assert.equal(named(memory('liar', 'y', 0), memory('a', 'x', 9), memory('b', 'x', 8)), digestOf('x'))
  assert.equal(
    named(memory('liar', 'y', 0), memory('liar', 'y', 0), memory('a', 'x', 9), memory('b', 'x', 8)),
    digestOf('x'),
  )
  // The size goes with the digest: a wrong one is another answer.
  const resized = { ...memory('liar', 'x', 0), sizeBytes: 6 }
  assert.equal(mostNamed([resized, memory('a', 'x', 9), memory('b', 'x', 8)])?.sizeBytes, 5)
})

const offline: Pick<ControlPlane, 'findProviders' | 'channel'> = {
  findProviders: async function* () {},
  channel: () => Promise.reject(new Error('nobody was to be called')),
}

function join(sizeBytes: number, complete = true) {
  const base = { type: 'swarm-join', digest, sizeBytes, mediaType: 'm', chunks: new Uint8Array(), complete } as const
  return { ...base, vouchers: [], reply: false, freeSlots: 1 }
}

test('the first agent that has a blob says how large it is; those who ask meanwhile share the answer', async () => {
  const agents = [new FakeChannel('a'), new FakeChannel('b')]
  const questions = new SizeQuestions({ control: offline, agents: () => agents })
  const both = Promise.all([questions.ask(digest, LONG), questions.ask(digest, LONG)])
  for (const agent of agents) assert.equal(agent.take('swarm-join').length, 1)
  questions.refused('a', digest)
  questions.answered('a', join(0))
  questions.answered('b', join(1234))
  assert.deepEqual(await both, [
    { sizeBytes: 1234, mediaType: 'm', saidBy: 'b' },
    { sizeBytes: 1234, mediaType: 'm', saidBy: 'b' },
  ])
})

test('when all have said no, nobody is waited for', async () => {
  const agents = [new FakeChannel('a'), new FakeChannel('b')]
  const questions = new SizeQuestions({ control: offline, agents: () => agents })
  const asking = questions.ask(digest, LONG)
  questions.refused('a', digest)
  questions.refused('a', digest)
  questions.refused('stranger', digest)
  questions.refused('b', digest)
  assert.equal(await asking, undefined)
  assert.equal(await new SizeQuestions({ control: offline, agents: () => [] }).ask(digest, LONG), undefined)
})

test('who answers nothing is given up after a while', async () => {
  const questions = new SizeQuestions({ control: offline, agents: () => [new FakeChannel('a')] })
  assert.equal(await questions.ask(digest, 5), undefined)
})

test('agents that only the DHT knows are asked, too', async () => {
  const far = new FakeChannel('far')
  const control: typeof offline = {
    findProviders: async function* () {
      yield far.hello.node
    },
    channel: async () => far,
  }
  const questions = new SizeQuestions({ control, agents: () => [] })
  const asking = questions.ask(digest, LONG)
  while (far.sent.length === 0) await new Promise((resolve) => setImmediate(resolve))
  questions.answered('far', join(99))
  assert.equal((await asking)?.sizeBytes, 99)
})
