// Numbers of a bench: medians and percentiles, targets, and tables in Markdown.

/** Middle value; NaN of none. */
export function median(values: readonly number[]): number {
  return percentile(values, 0.5)
}

/** Smallest value that a share of all does not exceed (nearest rank); NaN of none. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? NaN
}

export interface Target {
  what: string
  met: boolean
}

/** What one section of the bench has found. */
export interface SectionResult {
  title: string
  /** What was done, in a sentence or two. */
  method: string
  columns: readonly string[]
  rows: readonly (readonly string[])[]
  targets: readonly Target[]
}

export function renderSection({ title, method, columns, rows, targets }: SectionResult): string {
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  const aligned = columns.map((_, index) => (index === 0 ? '---' : '---:'))
  const lines = [`## ${title}`, '', method, '', row(columns), row(aligned), ...rows.map(row)]
  if (targets.length > 0) lines.push('', ...targets.map(({ what, met }) => `- ${met ? 'met' : '**missed**'}: ${what}`))
  return `${lines.join('\n')}\n`
}
