// Where the checkout's shoal command is, and the configuration files tests start it with.
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

const BIN = resolve(import.meta.dirname, '../../packages/cli/bin')

/** The command line that runs `shoal` with the Node that runs this. */
export function shoalCommand(...args: string[]): string[] {
  return ['env', `SHOAL_NODE=${process.execPath}`, join(BIN, 'shoal'), ...args]
}

export type Config = Record<string, unknown>

/** Writes a configuration file; YAML takes JSON as it is. */
export function writeConfig(path: string, config: Config): string {
  writeFileSync(path, `${JSON.stringify(config, null, 2)}\n`)
  return path
}

/** Writes a new swarm key file. */
export function writeSwarmKey(path: string): string {
  writeFileSync(path, `shoal-swarm-key-v1:${randomBytes(32).toString('base64')}\n`, { mode: 0o600 })
  return path
}
