// Durations, sizes and rates as people write them: 30s, 10GiB, 100mbit. Ambiguous ones are refused, not guessed.

export type Unit = 'ms' | 'bytes' | 'bytesPerSecond'

/** A text is not a quantity of the wanted unit; the message says how to write one. */
export class QuantityError extends Error {
  override readonly name = 'QuantityError'
}

const DURATIONS_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

const SIZES_BYTES: Record<string, number> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  // As Kubernetes writes them.
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
}

/** Network people count bits, in powers of ten. */
const BIT_RATES_BYTES: Record<string, number> = { kbit: 125, mbit: 125e3, gbit: 125e6 }

const HOW_TO_WRITE: Record<Unit, string> = {
  ms: 'a duration such as 500ms, 30s, 5m, 1h or 1m30s',
  bytes: 'a size such as 500MB, 10GiB or a number of bytes',
  bytesPerSecond: 'a rate such as 100MB/s, 10MiB/s or 100mbit',
}

/** What a quantity of this unit looks like, in words. */
export function howToWrite(unit: Unit): string {
  return HOW_TO_WRITE[unit]
}

function refuse(text: string, unit: Unit, why = ''): never {
  const shown = text.length > 40 ? `${text.slice(0, 40)}…` : text
  throw new QuantityError(`must be ${HOW_TO_WRITE[unit]}, not ${JSON.stringify(shown)}${why && `: ${why}`}`)
}

function parseDuration(text: string): number {
  if (/^\d+(\.\d+)?$/.test(text) && Number(text) !== 0) {
    refuse(text, 'ms', `say which unit, ${text}s or ${text}ms`)
  }
  if (Number(text) === 0) return 0
  let totalMs = 0
  let rest = text
  while (rest !== '') {
    const part = /^(\d{1,15}(?:\.\d{1,15})?)(ms|s|m|h|d)/.exec(rest)
    if (!part) refuse(text, 'ms')
    totalMs += Number(part[1]) * (DURATIONS_MS[part[2] ?? ''] ?? NaN)
    rest = rest.slice(part[0].length)
  }
  return totalMs
}

function parseSize(text: string, unit: Unit): number {
  const parts = /^(\d{1,15}(?:\.\d{1,15})?)\s?([A-Za-z]*)$/.exec(text)
  if (!parts) refuse(text, unit)
  const name = parts[2] ?? ''
  const factor = name === '' ? 1 : SIZES_BYTES[name]
  if (factor === undefined) {
    const near = Object.keys(SIZES_BYTES).find((known) => known.toLowerCase() === name.toLowerCase())
    const bits = /^[kmg]b$/.test(name) || /^[KMG]b$/.test(name)
    refuse(text, unit, near && !bits ? `did you mean ${parts[1]}${near}?` : 'B is for bytes')
  }
  return Number(parts[1]) * factor
}

function parseRate(text: string): number {
  const bits = /^(\d{1,15}(?:\.\d{1,15})?)\s?([kmg]bit)(\/s)?$/i.exec(text)
  if (bits) return Number(bits[1]) * (BIT_RATES_BYTES[(bits[2] ?? '').toLowerCase()] ?? NaN)
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text)
  if (!text.endsWith('/s')) refuse(text, 'bytesPerSecond', 'a rate ends with /s or is given in kbit, mbit or gbit')
  return parseSize(text.slice(0, -2).trimEnd(), 'bytesPerSecond')
}

/**
 * Reads a quantity. Rounded to the nearest whole ms, byte or byte per second.
 *
 * @throws QuantityError for anything that is not clearly one
 */
export function parseQuantity(text: string, unit: Unit): number {
  const trimmed = text.trim()
  if (trimmed === '') refuse(text, unit)
  const parsed =
    unit === 'ms' ? parseDuration(trimmed) : unit === 'bytes' ? parseSize(trimmed, unit) : parseRate(trimmed)
  const rounded = Math.round(parsed)
  if (!Number.isSafeInteger(rounded)) refuse(text, unit, 'that is too much')
  return rounded
}

/** Writes a quantity so that `parseQuantity` gives the same number: the largest unit that divides it. */
export function formatQuantity(value: number, unit: Unit): string {
  if (value === 0) return '0'
  const scales: [string, number][] =
    unit === 'ms'
      ? [
          ['d', DURATIONS_MS['d'] ?? NaN],
          ['h', 3_600_000],
          ['m', 60_000],
          ['s', 1_000],
          ['ms', 1],
        ]
      : [
          ['TiB', 2 ** 40],
          ['GiB', 2 ** 30],
          ['MiB', 2 ** 20],
          ['KiB', 2 ** 10],
          ['GB', 1e9],
          ['MB', 1e6],
          ['kB', 1e3],
          ['B', 1],
        ]
  const [name, factor] = scales.find(([, size]) => value >= size && value % size === 0) ?? ['', 1]
  return `${value / factor}${name}${unit === 'bytesPerSecond' ? '/s' : ''}`
}
