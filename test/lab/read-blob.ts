// One GET over HTTP/1.1 into a buffer that is used again and again. node:http allocates for every read, and in a lab all
// clients share the processors with the agents: sixteen of them took a sixth of both, a third of it for garbage.
import { connect } from 'node:net'

export interface BlobRequest {
  headers: Record<string, string>
  /** Limit for the silence before and between bytes. */
  idleLimitMs: number
  signal: AbortSignal | undefined
  /** Content of a successful answer, a view that is overwritten afterwards. */
  onBytes: (bytes: Uint8Array) => void
}

export interface BlobAnswer {
  status: number
  /** Names in lower case. */
  headers: Record<string, string>
  /** Body of an answer that is no success. */
  text: string
}

const BUFFER_BYTES = 256 * 1024
/** What is kept of a head, and of the body of a refusal. */
const TEXT_LIMIT_BYTES = 64 * 1024
const END_OF_HEAD = Buffer.from('\r\n\r\n')

/** @throws Error when the connection fails, ends before the whole body, or is silent for too long */
export function readBlob(url: URL, { headers, idleLimitMs, signal, onBytes }: BlobRequest): Promise<BlobAnswer> {
  return new Promise((resolve, reject) => {
    let answer: BlobAnswer | undefined
    let pending = Buffer.alloc(0)
    let leftBytes = Infinity

    const socket = connect({
      host: url.hostname,
      port: Number(url.port || 80),
      onread: {
        buffer: Buffer.allocUnsafeSlow(BUFFER_BYTES),
        callback: (count, buffer) => {
          try {
            take(buffer.subarray(0, count))
          } catch (error) {
            socket.destroy(error as Error)
          }
          return true
        },
      },
    })
    const take = (bytes: Uint8Array): void => {
      if (answer !== undefined) return takeBody(answer, bytes)
      pending = Buffer.concat([pending, bytes])
      const end = pending.indexOf(END_OF_HEAD)
      if (end < 0) {
        if (pending.length > TEXT_LIMIT_BYTES) throw new Error(`GET ${url.href}: no end of the head`)
        return
      }
      answer = parseHead(pending.subarray(0, end).toString('latin1'))
      if (answer.headers['transfer-encoding'] !== undefined && answer.status === 200)
        throw new Error(`GET ${url.href}: a blob without a length`)
      leftBytes = Number(answer.headers['content-length'] ?? Infinity)
      takeBody(answer, pending.subarray(end + END_OF_HEAD.length))
    }
    const takeBody = (head: BlobAnswer, bytes: Uint8Array): void => {
      leftBytes -= bytes.length
      if (leftBytes < 0) throw new Error(`GET ${url.href}: more bytes than announced`)
      if (head.status === 200) onBytes(bytes)
      else if (head.text.length < TEXT_LIMIT_BYTES) head.text += Buffer.from(bytes).toString()
      if (leftBytes > 0) return
      resolve(head)
      socket.destroy()
    }

    const stop = (): void => void socket.destroy(signal?.reason as Error)
    signal?.addEventListener('abort', stop)
    socket.setTimeout(idleLimitMs, () => socket.destroy(new Error(`GET ${url.href}: silent for ${idleLimitMs} ms`)))
    socket.once('error', reject)
    socket.once('end', () => {
      if (answer !== undefined && leftBytes === Infinity) resolve(answer)
      else socket.destroy(new Error(`GET ${url.href}: aborted with ${leftBytes} bytes to come`))
    })
    socket.once('close', () => {
      signal?.removeEventListener('abort', stop)
      reject(new Error(`GET ${url.href}: aborted`))
    })
    const lines = Object.entries({ host: url.host, ...headers, connection: 'close' }).map(([k, v]) => `${k}: ${v}\r\n`)
    socket.write(`GET ${url.pathname}${url.search} HTTP/1.1\r\n${lines.join('')}\r\n`)
  })
}

function parseHead(text: string): BlobAnswer {
  const [first = '', ...lines] = text.split('\r\n')
  const status = /^HTTP\/1\.1 (\d{3})/.exec(first)?.[1]
  if (status === undefined) throw new Error(`not an HTTP answer: ${first.slice(0, 80)}`)
  const headers = lines.map((line) => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
  })
  return { status: Number(status), headers: Object.fromEntries(headers) as Record<string, string>, text: '' }
}
