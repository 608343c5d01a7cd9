// What a process has used, as the kernel counts it.
import { readFileSync } from 'node:fs'

/** Clock ticks in a second: 100 on every Linux that Node runs on. */
const TICKS = 100

/** Processor time of all threads so far, user and system, in seconds. Exact to 10 ms. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The name of the process may hold anything, so it is cut off; fields 14 and 15 of proc(5).
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS
}

export interface Memory {
  /** Resident now, in bytes. */
  residentBytes: number
  /** Of it, what belongs to the process alone (heap, buffers); the rest is program text and other files. */
  anonymousBytes: number
  /** Most that was ever resident. */
  peakBytes: number
}

export function memory(pid: number): Memory {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const bytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024
  return { residentBytes: bytes('VmRSS'), anonymousBytes: bytes('RssAnon'), peakBytes: bytes('VmHWM') }
}
