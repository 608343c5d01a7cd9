// Carries a blob from the backend to the socket. Three things must hold: memory stays bounded (back-pressure), nobody
// works for a client that has gone, and a body that cannot be finished ends visibly broken.
import type { ServerResponse } from 'node:http'
import type { BlobReadable } from './backend.ts'
import { destroyAfterGrace } from './slow-clients.ts'

export interface BlobBodyOptions {
  lengthBytes: number
  /**
   * How long the first byte may take before the headers go out without it. Until then a failure of the backend can
   * still be answered with a proper error, which lets the client turn to another registry at once.
   */
  headerGraceMs: number
  /** A client that takes no byte for so long is cut off. */
  clientStallMs: number
  /** Sends the headers; called once, right before the first byte or when the grace is over. */
  begin(): void
  /** Told of every piece that was given to the socket. */
  onBytes(count: number): void
}

/** How a body ended. */
export type BlobBodyEnd = 'complete' | 'client-gone' | 'client-stalled' | 'cut'

/** The backend gave more or fewer bytes than it announced. */
export class BodyLengthError extends Error {
  override readonly name = 'BodyLengthError'
}

export interface BlobBodyResult {
  end: BlobBodyEnd
  /** Why a body was cut. */
  error?: unknown
}

/**
 * Streams `source` into `response` and ends it. When the source fails after the headers went out, the connection is
 * closed with FIN short of the announced length: clients see a broken body and resume, and never take it for whole.
 * @throws whatever the source failed with, as long as nothing was sent
 */
export function sendBlobBody(
  source: BlobReadable,
  response: ServerResponse,
  options: BlobBodyOptions,
): Promise<BlobBodyResult> {
  return new Promise((resolve, reject) => {
    let remaining = options.lengthBytes
    let begun = false
    let settled = false
    let stallTimer: NodeJS.Timeout | undefined

    const begin = (): void => {
      if (begun) return
      begun = true
      clearTimeout(headerTimer)
      options.begin()
    }
    const headerTimer = setTimeout(() => {
      begin()
      response.flushHeaders()
    }, options.headerGraceMs)

    const settle = (): boolean => {
      if (settled) return false
      settled = true
      clearTimeout(headerTimer)
      clearTimeout(stallTimer)
      source.off('data', onData)
      source.off('end', onEnd)
      source.off('close', onSourceClose)
      response.off('drain', onDrain)
      response.off('close', onClose)
      // The error listener stays: a source that is destroyed may still fail, and nobody else listens.
      source.destroy()
      return true
    }
    const fail = (error: unknown): void => {
      if (!settle()) return
      if (!begun) {
        reject(error instanceof Error ? error : new Error(String(error)))
        return
      }
      cutConnection(response)
      resolve({ end: 'cut', error })
    }

    const onData = (piece: Buffer): void => {
      if (piece.length > remaining) {
        fail(new BodyLengthError(`the backend gave more than the ${options.lengthBytes} bytes it announced`))
        return
      }
      begin()
      remaining -= piece.length
      options.onBytes(piece.length)
      if (remaining === 0) {
        response.end(piece, () => source.recycle?.(piece))
        watchClient()
      } else if (!response.write(piece, () => source.recycle?.(piece))) {
        source.pause()
        watchClient()
      }
    }
    const watchClient = (): void => {
      stallTimer = setTimeout(() => {
        if (!settle()) return
        response.destroy()
        resolve({ end: 'client-stalled' })
      }, options.clientStallMs)
    }
    const onDrain = (): void => {
      clearTimeout(stallTimer)
      source.resume()
    }
    const onEnd = (): void => {
      if (remaining > 0) {
        fail(new BodyLengthError(`the backend ended ${remaining} bytes short of ${options.lengthBytes}`))
      }
    }
    const onSourceClose = (): void => {
      if (remaining > 0) fail(new BodyLengthError('the backend closed its stream before the end'))
    }
    const onClose = (): void => {
      if (settle()) resolve({ end: response.writableFinished ? 'complete' : 'client-gone' })
    }

    response.on('close', onClose)
    response.on('drain', onDrain)
    source.on('error', fail)
    source.on('end', onEnd)
    source.on('close', onSourceClose)
    if (response.destroyed) onClose()
    else source.on('data', onData)
  })
}

/**
 * Ends the connection under an unfinished response with FIN, after what was written has left. Ending the response
 * instead would leave the client waiting for the rest; a reset would make containerd fail the pull.
 */
export function cutConnection(response: ServerResponse): void {
  const { socket } = response
  if (!socket || socket.destroyed) {
    response.destroy()
    return
  }
  destroyAfterGrace(socket)
  socket.destroySoon()
}
