// Ways in which one agent of a lab can lie; lying-agent.ts makes it do so.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { LabAgent } from '../lab/lab.ts'
import type { LabNode } from '../lab/node.ts'

/** Each kind of lie, in a few words. */
export const LIES = {
  flips: 'flips a bit of every chunk that it sends',
  claims: 'says that it has everything, vouches for nothing and has nothing',
  silent: 'takes requests and never answers',
  busy: 'is always busy',
  trickles: 'sends ten bytes a second',
  vouches: 'breaks what it fetches from the origin and vouches for it',
  hoards: 'takes leases and fetches nothing',
  pretends: 'takes leases, fetches nothing and tells of progress',
  floods: 'sends five thousand messages a second to everybody',
} as const

export type Lie = keyof typeof LIES

/** The module that an agent's process imports to lie so. */
export function lying(lie: Lie): string {
  const module = pathToFileURL(join(import.meta.dirname, 'lying-agent.ts'))
  module.searchParams.set('lie', lie)
  return module.href
}

export async function peerIdOf(agent: LabAgent): Promise<string> {
  const { text } = await agent.probe.get('http://127.0.0.1:7703/api/v1/status')
  return (JSON.parse(text) as { peerId: string }).peerId
}

/** Pino's number for warnings. */
const WARN = 40

/** Of these daemons, those that name the peer both in a metric and in a warning of the log. */
export async function whoNames(peerId: string, daemons: readonly LabNode[]): Promise<string[]> {
  const naming: string[] = []
  for (const daemon of daemons) {
    const isWarning = (line: string): boolean =>
      line.startsWith('{') && (JSON.parse(line) as { level: number }).level >= WARN
    const lines = readFileSync(daemon.logFile, 'utf8')
      .split('\n')
      .filter((line) => line.includes(peerId))
    const isInMetrics = (await daemon.metrics()).some(({ labels }) => labels.peer === peerId)
    if (isInMetrics && lines.some(isWarning)) naming.push(daemon.name)
  }
  return naming
}
