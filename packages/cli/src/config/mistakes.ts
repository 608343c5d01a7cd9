// What is wrong with a configuration: all of it at once, each with its place.

/** One thing that is wrong. */
export interface Mistake {
  /** `agent.yaml:3:1`, `SHOAL_MIRROR_PORT` or `--mirror-port`. */
  where: string
  /** Dotted path of the key, '' for the whole. */
  key: string
  /** Never holds the value of a secret. */
  message: string
  /** This user may not read a file, which another user might. */
  isForbidden?: boolean
}

export function formatMistake(mistake: Mistake): string {
  return `${mistake.where}: ${mistake.key === '' ? '' : `${mistake.key} `}${mistake.message}`
}

/** A configuration cannot be used. The message has one line for every mistake. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly mistakes: readonly Mistake[]

  constructor(mistakes: readonly Mistake[]) {
    super(mistakes.map(formatMistake).join('\n'))
    this.mistakes = mistakes
  }
}

/** Edits (insert, delete, replace, swap neighbours) from one word to the other. */
function editDistance(from: string, to: string): number {
  let beforeLast: number[] = []
  let last = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (let row = 1; row <= from.length; row++) {
    const current = [row]
    for (let column = 1; column <= to.length; column++) {
      const same = from[row - 1] === to[column - 1]
      let cost = Math.min(
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (same ? 0 : 1),
      )
      if (row > 1 && column > 1 && from[row - 1] === to[column - 2] && from[row - 2] === to[column - 1]) {
        cost = Math.min(cost, (beforeLast[column - 2] ?? 0) + 1)
      }
      current.push(cost)
    }
    beforeLast = last
    last = current
  }
  return last[to.length] ?? from.length
}

/** The known word that was probably meant, if one is near enough. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  if (word.length > 64) return undefined
  const squash = (text: string) => text.toLowerCase().replaceAll(/[-_\s]/g, '')
  const ranked = known
    .map((candidate) => ({ candidate, distance: editDistance(squash(word), squash(candidate)) }))
    .sort((a, b) => a.distance - b.distance)
  const best = ranked[0]
  return best && best.distance <= Math.max(1, Math.floor(word.length / 3)) ? best.candidate : undefined
}
