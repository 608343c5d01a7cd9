// How long a client may take for what is small: to say what it wants, to send a manifest, and to take an answer that is
// ready. Without these bounds, connections on which nothing happens would take descriptors and places for good, and keep
// a server from closing. Blobs have a watch of their own (blob-body.ts).
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** How long the headers of a request may take, and the first request of a connection. */
export const HEADERS_TIMEOUT_MS = 60_000
/** How long an answer may take to leave that is whole in memory. */
export const ANSWER_LIMIT_MS = 300_000
/** How long a manifest may take to come in. Uploads may last; they have a watch of their own. */
export const MANIFEST_LIMIT_MS = 60_000
/** How long the form of a login may take: a few hundred bytes, from whom nobody knows yet. */
export const LOGIN_LIMIT_MS = 10_000
/** How long a connection that was ended may take to send what it has before it is torn down. */
const END_GRACE_MS = 5_000

/** Options of an HTTP or HTTPS server of Node. A connection that says nothing is closed after 1.25 of the time at most. */
export function headerTimeouts(headersTimeoutMs: number) {
  return {
    headersTimeout: headersTimeoutMs,
    connectionsCheckingInterval: headersTimeoutMs / 4,
    // Of TLS: else two minutes.
    handshakeTimeout: headersTimeoutMs,
  }
}

/**
 * Closes the connection of a client that does not take its answer within `limitMs`: of answers that are whole in memory.
 * Those that are streams may last.
 */
export function boundAnswers(server: FastifyInstance, limitMs: number): void {
  server.addHook('onSend', (_request, { raw }, payload, next) => {
    if (typeof payload === 'string' || Buffer.isBuffer(payload)) {
      const timer = setTimeout(() => raw.destroy(), limitMs).unref()
      raw.once('close', () => clearTimeout(timer))
    }
    next()
  })
}

/** Closes the connection of a client that has not sent all of a body within `limitMs`: of bodies that are read as a whole. */
export function boundSmallBody(body: IncomingMessage, limitMs: number): void {
  const timer = setTimeout(() => body.socket.destroy(), limitMs).unref()
  const arrived = (): void => clearTimeout(timer)
  body.once('end', arrived).once('close', arrived)
}

/**
 * Tears a connection down a while after it was ended. A client that neither takes the last bytes nor closes its side would
 * keep the descriptor else.
 */
export function destroyAfterGrace(socket: Socket): void {
  const timer = setTimeout(() => socket.destroy(), END_GRACE_MS).unref()
  socket.once('close', () => clearTimeout(timer))
}

const connections = new WeakMap<Server, Set<Socket>>()

/** Keeps account of a server's connections, for `destroyConnections`. */
export function noteConnections(server: Server): void {
  const sockets = new Set<Socket>()
  connections.set(server, sockets)
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
}

/** Tears all connections down: `closeAllConnections` of Node knows none that is still in its TLS handshake. */
export function destroyConnections(server: Server): void {
  for (const socket of connections.get(server) ?? []) socket.destroy()
}
