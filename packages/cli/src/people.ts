// Text and tables as people read them.
import { stripVTControlCharacters } from 'node:util'

export { showDuration, showSize } from '@shoal/oci'

/** First characters of a digest, enough to tell the layers of an image apart. */
export function shortDigest(digest: string): string {
  return digest.replace(/^sha\d+:/, '').slice(0, 12)
}

/** Text from elsewhere, without what would move the cursor or change colours. */
export function plainText(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what is taken out
  return stripVTControlCharacters(text).replaceAll(/[\u0000-\u001f\u007f-\u009f]+/g, ' ')
}

/** Columns side by side; numbers and amounts, but for the first column, to the right. */
export function showTable(header: string[], rows: string[][]): string {
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)))
  const isNumeric = header.map(
    (_, column) => column > 0 && rows.every((row) => /^([\d.]+( .*)?|\?|–)$/.test(row[column] ?? '')),
  )
  const line = (cells: string[]) =>
    cells
      .map((cell, column) =>
        isNumeric[column] ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd()
  return [header, ...rows].map(line).join('\n')
}
