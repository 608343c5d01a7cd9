// Byte ranges of both directions: `Range` of a download (RFC 9110, section 14) and `Content-Range` of a chunked upload
// (OCI distribution specification 1.1, "Pushing a blob in chunks").

/** Both ends inclusive, as in HTTP. */
export interface ByteRange {
  start: number
  end: number
}

// Blanks only where RFC 9110 shows them, before the first range. Runs of them side by side take cubic time on hostile text.
const SINGLE_RANGE = /^bytes= *(\d*)-(\d*)$/i
const UPLOAD_RANGE = /^(?:bytes[ =])?\s*(\d+)-(\d+)(?:\/(?:\d+|\*))?$/i

/**
 * The part of a content that a Range header asks for. Undefined means the whole: there is no header, or one that a
 * server may ignore (another unit, several ranges, bad syntax).
 */
export function parseRange(header: string | undefined, sizeBytes: number): ByteRange | 'unsatisfiable' | undefined {
  if (header === undefined) return undefined
  const match = SINGLE_RANGE.exec(header)
  if (!match) return undefined
  const [, first = '', last = ''] = match
  if (first === '') {
    if (last === '') return undefined
    const length = Number(last)
    if (length === 0 || sizeBytes === 0) return 'unsatisfiable'
    return { start: Math.max(0, sizeBytes - length), end: sizeBytes - 1 }
  }
  const start = Number(first)
  // RFC 9110 lets a server ignore a range that ends before it starts; the conformance suite of OCI wants it refused.
  if (start >= sizeBytes || (last !== '' && Number(last) < start)) return 'unsatisfiable'
  return { start, end: last === '' ? sizeBytes - 1 : Math.min(Number(last), sizeBytes - 1) }
}

/**
 * Where a chunk of an upload lies: `<start>-<end>` in the specification, `bytes <start>-<end>/<size>` from clients that
 * follow RFC 9110. Undefined when it is neither.
 */
export function parseUploadRange(header: string): ByteRange | undefined {
  const match = UPLOAD_RANGE.exec(header.trim())
  if (!match) return undefined
  const start = Number(match[1])
  const end = Number(match[2])
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || end < start) return undefined
  return { start, end }
}

/** Whether an If-None-Match header (RFC 9110, section 13.1.2) names this entity tag; weak comparison. */
export function matchesEntityTag(header: string | undefined, digest: string): boolean {
  if (header === undefined) return false
  if (header.trim() === '*') return true
  return header.split(',').some((tag) => {
    const bare = tag.trim().replace(/^W\//, '')
    return bare === `"${digest}"`
  })
}
