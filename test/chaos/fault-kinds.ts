// Every fault that pulls must survive, by name: what it befalls and how long it lasts. How each is done is in faults.ts.

export interface FaultKind {
  on: 'agent' | 'tracker' | 'origin' | 'network'
  /** Silence, which only shows when it lasts longer than the bounds: in a long run up to a minute. */
  lasting?: true
}

export const FAULT_KINDS = {
  'agent-killed': { on: 'agent' },
  'agent-stopped': { on: 'agent', lasting: true },
  'agent-empty-disk': { on: 'agent' },
  'agent-truncated-file': { on: 'agent' },
  'agent-flipped-blob': { on: 'agent' },
  'agent-truncated-index': { on: 'agent' },
  'agent-flipped-index': { on: 'agent' },
  'agent-torn-identity': { on: 'agent' },
  'agent-clock-ahead': { on: 'agent' },
  'agent-clock-behind': { on: 'agent' },
  'agent-disk-full': { on: 'agent' },
  'agent-disk-read-only': { on: 'agent' },
  'agent-no-descriptors': { on: 'agent' },
  'agent-slow-link': { on: 'agent' },
  'agent-no-dns': { on: 'agent' },
  'agent-lies': { on: 'agent' },
  'tracker-killed': { on: 'tracker' },
  'tracker-stopped': { on: 'tracker', lasting: true },
  'tracker-empty-disk': { on: 'tracker' },
  'tracker-torn-identity': { on: 'tracker' },
  'tracker-clock-ahead': { on: 'tracker' },
  'network-cut': { on: 'network' },
  'network-loss': { on: 'network' },
  'network-delay': { on: 'network' },
  'network-newer-agents': { on: 'network' },
  'origin-killed': { on: 'origin' },
  'origin-stopped': { on: 'origin', lasting: true },
  'origin-empty-disk': { on: 'origin' },
  'origin-401': { on: 'origin' },
  'origin-404': { on: 'origin' },
  'origin-429': { on: 'origin' },
  'origin-429-retry-after': { on: 'origin' },
  'origin-500': { on: 'origin' },
  'origin-503': { on: 'origin' },
  'origin-drops': { on: 'origin' },
  'origin-resets': { on: 'origin' },
  'origin-wrong-bytes': { on: 'origin' },
  'origin-wrong-length': { on: 'origin' },
  'origin-no-range': { on: 'origin' },
  'origin-byte-a-second': { on: 'origin', lasting: true },
  'origin-stalls': { on: 'origin', lasting: true },
  'origin-hangs': { on: 'origin', lasting: true },
  'origin-expired-tls': { on: 'origin' },
  'origin-redirect-circle': { on: 'origin' },
  'origin-moved-tag': { on: 'origin' },
} as const satisfies Record<string, FaultKind>

export type FaultName = keyof typeof FAULT_KINDS

export const FAULT_NAMES = Object.keys(FAULT_KINDS) as FaultName[]

/** @throws RangeError for a name that is none */
export function parseFaultNames(text: string): FaultName[] {
  return text.split(',').map((name) => {
    if (!Object.hasOwn(FAULT_KINDS, name)) throw new RangeError(`no fault named ${name}: ${FAULT_NAMES.join(' ')}`)
    return name as FaultName
  })
}
