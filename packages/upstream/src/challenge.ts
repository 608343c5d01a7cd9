// The WWW-Authenticate header: what a registry wants to see (RFC 9110 section 11.6.1, distribution token specification).

export interface Challenge {
  /** Lower case: `basic`, `bearer`. */
  scheme: string
  /** By lower-case name. */
  parameters: ReadonlyMap<string, string>
}

const MAX_HEADER_LENGTH = 8192
const TOKEN = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y
const TOKEN68 = /[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))/y
const SPACE = /[ \t]*/y
const QUOTED = /"((?:[^"\\]|\\.)*)"/y
const EQUALS = /[ \t]*=[ \t]*/y

/** Reads all challenges of a header. What is malformed ends the reading; what came before it counts. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = []
  if (header.length > MAX_HEADER_LENGTH) return challenges
  let at = 0
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at
    const match = pattern.exec(header)
    if (match !== null) at = pattern.lastIndex
    return match
  }
  let current: Map<string, string> | undefined
  while (at < header.length) {
    take(SPACE)
    if (header[at] === ',') {
      at++
      continue
    }
    const word = take(TOKEN)?.[0]
    if (word === undefined) break
    if (current !== undefined && take(EQUALS) !== null) {
      const quoted = take(QUOTED)
      const value = quoted?.[1]?.replace(/\\(.)/g, '$1') ?? take(TOKEN)?.[0]
      if (value === undefined) break
      if (!current.has(word.toLowerCase())) current.set(word.toLowerCase(), value)
    } else {
      current = new Map()
      challenges.push({ scheme: word.toLowerCase(), parameters: current })
      take(SPACE)
      take(TOKEN68)
    }
  }
  return challenges
}
