// The transfer plane beside libp2p streams: the bench of the network room, in a process of its own.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { SectionResult } from './figures.ts'

const PROGRAM = join(import.meta.dirname, '../../packages/network/bench/transfer-vs-libp2p.ts')
const LIMIT_FACTOR = 3

/** Names of the table's lines, as the program prints them. */
const LINE = /^(transfer plane.*?|libp2p stream.*?)\s{2,}([\d.]+)\s+([\d.]+)\s+([\d.]+)$/gm

export async function transfer(rounds: number): Promise<SectionResult> {
  const command = ['--disable-warning=ExperimentalWarning', PROGRAM, '--rounds', String(rounds)]
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new Error(`the transfer bench ended with ${code}`)
  const rows = [...said.matchAll(LINE)].map((match) => match.slice(1, 5))
  const ratio = Number(rows.at(-1)?.[3])
  if (rows.length !== 3 || Number.isNaN(ratio)) throw new Error(`no table in what the transfer bench said:\n${said}`)
  return {
    title: 'Transfer plane beside libp2p streams',
    method: `${said.split('\n', 1)[0]}. Both ways read from disk, send, receive, check with SHA-256 and write to disk.`,
    columns: ['', 'MB/s', 'sender CPU s/GB', 'receiver CPU s/GB'],
    rows,
    targets: [{ what: `receiver's cost at least ${LIMIT_FACTOR} times lower`, met: ratio >= LIMIT_FACTOR }],
  }
}
