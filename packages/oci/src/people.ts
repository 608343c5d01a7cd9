// Amounts as people read them.

const SIZE_NAMES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** `1.5 GiB` */
export function showSize(bytes: number): string {
  if (!Number.isFinite(bytes)) return '?'
  let value = bytes
  let name = 0
  while (value >= 1024 && name < SIZE_NAMES.length - 1) {
    value /= 1024
    name++
  }
  return `${name === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${SIZE_NAMES[name]}`
}

/** `350 ms`, `4.2 s`, `3 m 20 s`, `2 d 4 h` */
export function showDuration(ms: number): string {
  if (!Number.isFinite(ms)) return '?'
  if (ms < 1_000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`
  const seconds = Math.round(ms / 1_000)
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} m ${seconds % 60} s`
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} m`
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3_600)} h`
}
