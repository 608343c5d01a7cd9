// Plain HTTP requests for tests, on node:http: nothing follows redirects, retries or decodes behind a test's back.
import { request, type Agent, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http'

export interface Ask {
  method?: string
  headers?: OutgoingHttpHeaders
  /** Sent with back-pressure. */
  body?: Iterable<Buffer>
  agent?: Agent
  /** Limit for the silence before and between bytes. @default 60000 */
  idleLimitMs?: number
  signal?: AbortSignal | undefined
}

export interface Answer {
  status: number
  headers: IncomingMessage['headers']
  body: Buffer
}

/** The answer's head; its body is still to be read. */
export function open(url: string, ask: Ask = {}): Promise<IncomingMessage> {
  const { method = 'GET', headers = {}, body, agent, idleLimitMs = 60_000, signal } = ask
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { method, headers, agent, ...(signal ? { signal } : {}) }, resolve)
    outgoing.setTimeout(idleLimitMs, () =>
      outgoing.destroy(new Error(`${method} ${url}: silent for ${idleLimitMs} ms`)),
    )
    outgoing.once('error', reject)
    if (body === undefined) {
      outgoing.end()
      return
    }
    const pieces = body[Symbol.iterator]()
    const send = (): void => {
      for (;;) {
        const next = pieces.next()
        if (next.done) {
          outgoing.end()
          return
        }
        if (!outgoing.write(next.value)) {
          outgoing.once('drain', send)
          return
        }
      }
    }
    send()
  })
}

/** The whole answer in memory: for small ones. */
export async function fetchAll(url: string, ask: Ask = {}): Promise<Answer> {
  const incoming = await open(url, ask)
  const pieces: Buffer[] = []
  for await (const piece of incoming) pieces.push(piece as Buffer)
  return { status: incoming.statusCode ?? 0, headers: incoming.headers, body: Buffer.concat(pieces) }
}
