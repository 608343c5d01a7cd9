// Imported by an agent's process before anything else (lies.ts has the way), this makes a liar of it: an agent that is right
// in all but one thing. A lie is a patch of the agent's own source, made as it is loaded.
import { registerHooks } from 'node:module'
import type { Lie } from './lies.ts'

interface Patch {
  /** End of the module's path. */
  file: string
  /** What is replaced. Undefined: the text goes to the end of the module. */
  place?: string
  text: string
}

/** How the agent answers requests for chunks. */
const answering = (handle: string): Patch => ({
  file: '/swarm/src/uploads.ts',
  text: `
Uploads = class extends Uploads {
  constructor(...args) {
    super(...args)
    const honest = this.handle
    this.handle = ${handle}
  }
}
`,
})

/** What the agent does with a lease of the tracker, in the place of fetching. */
const onLease = (text: string): Patch => {
  const place = '  onLease(grant: LeaseGrant): void {'
  return { file: '/swarm/src/origin-runs.ts', place, text: `${place}${text}\n    return\n` }
}

const PATCHES: Record<Lie, Patch[]> = {
  // What it stores, checks and announces stays right, as with bad memory or malice.
  flips: [
    answering(`async (request) => {
      const answer = await honest(request)
      if (answer.status !== 'ok') return answer
      const read = async (offset, into) => {
        await answer.read(offset, into)
        if (offset === 0) into[into.length >> 1] ^= 1
      }
      return { ...answer, read }
    }`),
  ],
  claims: [
    answering(`() => ({ status: 'missing' })`),
    {
      file: '/network/src/control-channel.ts',
      place: '    const bytes = encodeControlMessage(message)',
      text: `
    if (message.type === 'swarm-join' || message.type === 'have') message = { ...message, complete: true, vouchers: [] }
    if (message.type === 'tracker-join' || message.type === 'tracker-progress') message = { ...message, complete: true }
    const bytes = encodeControlMessage(message)`,
    },
  ],
  silent: [answering('() => new Promise(() => undefined)')],
  busy: [answering(`() => ({ status: 'busy', retryAfterMs: 50 })`)],
  trickles: [
    {
      file: '/network/src/transfer-answers.ts',
      place: '      await new Promise<void>((resolve, reject) => {',
      text: `
      for (let at = 0; at < bytes.length && bytes.length > 1000 && !socket.destroyed; at++) {
        socket.write(bytes.subarray(at, at + 1))
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
      await new Promise<void>((resolve, reject) => {`,
    },
  ],
  // Not of manifests, or it could not go on itself.
  vouches: [
    {
      file: '/swarm/src/origin-runs.ts',
      place: '      await this.#owner.keepFromOrigin(chunk, data)',
      text: `
      if (data.length > 65_536) data[data.length >> 1]! ^= 1
      await this.#owner.keepFromOrigin(chunk, data)`,
    },
  ],
  hoards: [onLease('')],
  pretends: [
    onLease(`
    const { digest, leaseId } = grant
    let receivedBytes = 0
    setInterval(() => {
      receivedBytes += 10_000
      this.#owner.context.trackers.send(digest, { type: 'lease-progress', digest, leaseId, receivedBytes })
    }, 200)`),
  ],
  floods: [
    {
      file: '/network/src/control-channel.ts',
      place: '    this.#stream.send(bytes)',
      text: `
    this.#stream.send(bytes)
    if (message.type !== 'swarm-join' || this.flooding !== undefined) return
    this.flooding = setInterval(() => {
      for (let at = 0; at < 50 && this.#stream.queuedBytes < 1_000_000; at++) this.#stream.send(bytes)
    }, 10)`,
    },
  ],
}

const lie = new URL(import.meta.url).searchParams.get('lie')
const patches = PATCHES[lie as Lie] as Patch[] | undefined
if (patches === undefined) throw new Error(`no lie is called ${lie}`)

registerHooks({
  load(url, context, next) {
    const loaded = next(url, context)
    let source: string | undefined
    for (const { file, place, text } of patches) {
      if (!url.endsWith(file)) continue
      source ??= Buffer.from(loaded.source as Uint8Array).toString()
      if (place !== undefined && !source.includes(place)) throw new Error(`the place in ${file} for a lie has moved`)
      source = place === undefined ? source + text : source.replace(place, () => text)
    }
    return source === undefined ? loaded : { ...loaded, source }
  },
})
