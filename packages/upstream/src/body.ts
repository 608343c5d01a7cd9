// Bodies of answers: counted, so that a cut or a wrong length is noticed, and bounded where they go into memory.
import { Readable } from 'node:stream'
import { UpstreamError } from './upstream.ts'

const HIGH_WATER_MARK_BYTES = 256 * 1024

export interface BodyChecks {
  /** Length that the body must have; undefined where nobody said. */
  lengthBytes: number | undefined
  /** Makes the error of a broken body. */
  failure(error: unknown): Error
  wrongLength(receivedBytes: number): Error
  /** How long the source may take over `leastBytes` while somebody reads; undefined: for ever. */
  stall: { timeoutMs: number; leastBytes: number; error(): Error } | undefined
  /** Called once, when the last byte has come or the body was given up. */
  onClose(receivedBytes: number): void
}

/** A body that ends well only with the length it must have. */
export class CheckedBody extends Readable {
  readonly #source: Readable
  readonly #checks: BodyChecks
  #received = 0
  #closed = false
  #stallTimer: NodeJS.Timeout | undefined
  /** Bytes that have come since the timer was started. */
  #sinceTimer = 0

  constructor(source: Readable, checks: BodyChecks) {
    super({ highWaterMark: HIGH_WATER_MARK_BYTES })
    this.#source = source
    this.#checks = checks
    // A body may break before its reader has come; the error is kept for them and must not end the process.
    this.on('error', () => undefined)
    source.on('data', (chunk: Buffer) => {
      this.#received += chunk.length
      this.#sinceTimer += chunk.length
      // Bytes that only drip hold up a place at the origin as if none came.
      const { leastBytes = 0 } = checks.stall ?? {}
      if (this.#stallTimer !== undefined && this.#sinceTimer >= leastBytes) this.#startStallTimer()
      if (checks.lengthBytes !== undefined && this.#received > checks.lengthBytes) {
        this.destroy(checks.wrongLength(this.#received))
      } else if (!this.push(chunk)) {
        source.pause()
        this.#stopStallTimer()
      }
    })
    source.on('end', () => {
      if (checks.lengthBytes !== undefined && this.#received !== checks.lengthBytes) {
        this.destroy(checks.wrongLength(this.#received))
        return
      }
      this.push(null)
      this.#close()
    })
    source.on('error', (error) => this.destroy(checks.failure(error)))
    source.pause()
  }

  override _read(): void {
    if (this.#stallTimer === undefined) this.#startStallTimer()
    this.#source.resume()
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#source.destroy()
    this.#close()
    callback(error)
  }

  #startStallTimer(): void {
    clearTimeout(this.#stallTimer)
    this.#sinceTimer = 0
    const { stall } = this.#checks
    if (stall === undefined || this.#closed) return
    this.#stallTimer = setTimeout(() => this.destroy(stall.error()), stall.timeoutMs)
  }

  #stopStallTimer(): void {
    clearTimeout(this.#stallTimer)
    this.#stallTimer = undefined
  }

  #close(): void {
    this.#stopStallTimer()
    if (this.#closed) return
    this.#closed = true
    this.#checks.onClose(this.#received)
  }
}

/**
 * Reads a body into memory.
 * @throws UpstreamError(PROTOCOL) when it is longer than `maxBytes`; also what the body itself fails with
 */
export async function readBody(body: Readable, maxBytes: number, registry: string, what: string): Promise<Buffer> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > maxBytes) {
      const message = `${registry} sent more than the ${maxBytes} bytes that ${what} may have`
      throw new UpstreamError('PROTOCOL', registry, message)
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks, length)
}

/** The first bytes of a body that is not needed as such; the rest is thrown away, with the connection if it is long. */
export async function readStart(body: Readable, maxBytes: number): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      length += chunk.length
      chunks.push(chunk)
      if (length >= maxBytes) break
    }
  } catch {
    // An error page that is cut is still an error.
  }
  return Buffer.concat(chunks).subarray(0, maxBytes).toString('utf8')
}
