// What is common to the container runtimes that `shoal configure` knows.
import { access, constants } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import type { FileChange } from './file-change.ts'

/** First line of every file that is wholly ours. */
export const MARK = '# Written by shoal configure; shoal configure --undo removes it.'

export interface Wish {
  /** Where the machine's files are: `/`, or the root of an image that is being built. */
  root: string
  /** `http://127.0.0.1:7700` */
  mirror: URL
  /** File with the authority that signed the mirror's certificate, where the runtime finds it. */
  ca?: string
  /** Registries that shall come through the agent, for runtimes that must be told each. */
  registries: string[]
}

export interface Plan {
  changes: FileChange[]
  /** What a person must still do or know. */
  notes: string[]
  /** Why the runtime would not read what is written for it, and what helps. */
  obstacle?: string
}

export interface Runtime {
  name: string
  /** Programs that show that it is installed. */
  programs: string[]
  /** @throws CommandError when the files there are not to be touched */
  plan(wish: Wish): Promise<Plan>
  planUndo(wish: Wish): Promise<Plan>
}

/** What a person must do where an authority of their own signed the mirror's certificate; nothing without TLS. */
export function authorityNotes(mirror: URL, advice: string): string[] {
  if (mirror.protocol === 'http:') return []
  return [`if an authority of your own signed the certificate of ${mirror.origin}: ${advice}`]
}

export async function isInstalled(runtime: Runtime, searchPath = process.env['PATH'] ?? ''): Promise<boolean> {
  // Daemons are where only root looks.
  const folders = [...searchPath.split(delimiter), '/usr/sbin', '/sbin', '/usr/local/sbin'].filter((one) => one !== '')
  for (const program of runtime.programs) {
    for (const folder of folders) {
      const there = await access(join(folder, program), constants.X_OK).then(
        () => true,
        () => false,
      )
      if (there) return true
    }
  }
  return false
}
