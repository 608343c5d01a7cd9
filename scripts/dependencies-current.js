// Tells whether node_modules holds what package-lock.json asks for: exit code 0 if so, 1 if not.
// It compares versions, not dates, because a checkout changes dates. Runs on any Node from 18 on.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'

const root = process.argv[2] ?? process.cwd()
const read = (file) => JSON.parse(readFileSync(join(root, file), 'utf8')).packages ?? {}

function isCurrent() {
  if (!existsSync(join(root, 'node_modules/.package-lock.json'))) return false
  const wanted = read('package-lock.json')
  const installed = read('node_modules/.package-lock.json')
  return Object.entries(wanted).every(([path, entry]) => {
    if (!path.includes('node_modules/')) return true
    if (entry.optional && !installed[path]) return true
    if (entry.link) return existsSync(join(root, path))
    return installed[path]?.version === entry.version
  })
}

process.exitCode = isCurrent() ? 0 : 1
