// Writes docs/configuration.md. Run it after a change to a config.ts; a test tells when that was forgotten.
import { writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { format, resolveConfig } from 'prettier'
import { daemonSchemas } from '../daemon/modules.ts'
import { renderReference } from './reference.ts'

export const REFERENCE_FILE = new URL('../../../../docs/configuration.md', import.meta.url)

/** The page as it belongs into the repository. */
export async function currentReference(): Promise<string> {
  const options = await resolveConfig(REFERENCE_FILE)
  return format(renderReference(await daemonSchemas()), { ...options, parser: 'markdown' })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await writeFile(REFERENCE_FILE, await currentReference())
