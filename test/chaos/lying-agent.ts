// Imported by an agent's process before anything else (`node --import`), this makes a liar of it: every chunk that it
// sends to others has one bit flipped. What it stores, checks and announces stays right, as with bad memory or malice.
import { registerHooks } from 'node:module'

const LIE = `
Uploads = class extends Uploads {
  constructor(...args) {
    super(...args)
    const honest = this.handle
    this.handle = async (request) => {
      const answer = await honest(request)
      if (answer.status !== 'ok') return answer
      const read = async (offset, into) => {
        await answer.read(offset, into)
        if (offset === 0) into[into.length >> 1] ^= 1
      }
      return { ...answer, read }
    }
  }
}
`

registerHooks({
  load(url, context, next) {
    const loaded = next(url, context)
    if (!url.endsWith('/swarm/src/uploads.ts')) return loaded
    const source = Buffer.from(loaded.source as Uint8Array).toString()
    if (!source.includes('export class Uploads')) throw new Error('the place where an agent can lie has moved')
    return { ...loaded, source: source + LIE }
  },
})
