// Reading JSON from strangers: limits are checked before the parser builds anything.

/** Why a text is refused; the caller puts it into its own error. */
export class HostileJsonError extends Error {
  override readonly name = 'HostileJsonError'
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

/**
 * Parses UTF-8 JSON whose arrays and objects nest at most `maxDepth` deep.
 * @throws HostileJsonError when it is too long, too deep, not UTF-8 or not JSON
 */
export function parseBoundedJson(bytes: Uint8Array, limits: { maxBytes: number; maxDepth: number }): unknown {
  if (bytes.byteLength > limits.maxBytes) {
    throw new HostileJsonError(`it has ${bytes.byteLength} bytes, more than the limit of ${limits.maxBytes}`)
  }
  let depth = 0
  let inString = false
  for (let at = 0; at < bytes.byteLength; at++) {
    const byte = bytes[at]
    if (inString) {
      if (byte === BACKSLASH) at++
      else if (byte === QUOTE) inString = false
    } else if (byte === QUOTE) inString = true
    else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) {
      if (++depth > limits.maxDepth) throw new HostileJsonError(`it nests deeper than ${limits.maxDepth} levels`)
    } else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) depth--
  }
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new HostileJsonError('it is not valid UTF-8')
  }
  try {
    return JSON.parse(text)
  } catch {
    throw new HostileJsonError('it is not valid JSON')
  }
}
