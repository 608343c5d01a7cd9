// The parts of undici that this room needs, by their places inside the package (whose version is pinned). Its index loads
// fetch, WebSocket, mocks and caches, too: 3 MB in a daemon that runs on every node (docs/decisions/0013).
import { createRequire } from 'node:module'
import type * as undici from 'undici'

const require = createRequire(import.meta.url)

export const Agent = require('undici/lib/dispatcher/agent.js') as typeof undici.Agent
export const Pool = require('undici/lib/dispatcher/pool.js') as typeof undici.Pool
export const ProxyAgent = require('undici/lib/dispatcher/proxy-agent.js') as typeof undici.ProxyAgent

// As the index does: `request` and its like become methods of every dispatcher.
const Dispatcher = require('undici/lib/dispatcher/dispatcher.js') as typeof undici.Dispatcher
Object.assign(Dispatcher.prototype, require('undici/lib/api/index.js') as object)
