// Imported by an agent's process before anything else (`node --import`), this makes it one of a later version: it speaks
// the next version of both planes' protocols and none of those that the others know.
import { registerHooks } from 'node:module'

const CHANGES = [
  { file: '/network/src/control-plane.ts', from: '/shoal/control/1.0.0', to: '/shoal/control/2.0.0' },
  { file: '/network/src/transfer-handshake.ts', from: 'shoal-transfer/1', to: 'shoal-transfer/2' },
]

registerHooks({
  load(url, context, next) {
    const loaded = next(url, context)
    const change = CHANGES.find(({ file }) => url.endsWith(file))
    if (change === undefined) return loaded
    const source = Buffer.from(loaded.source as Uint8Array).toString()
    if (!source.includes(change.from)) throw new Error(`${change.file} no longer names the protocol ${change.from}`)
    return { ...loaded, source: source.replaceAll(change.from, change.to) }
  },
})
