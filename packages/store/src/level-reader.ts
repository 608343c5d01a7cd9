// The process that reads all of a LevelDB database which nobody has open: see `level-check.ts`. Its arguments are the folder, and
// `repair` where the database is to be repaired first. It says when it begins to read, and ends with 0, or with `DAMAGED_EXIT_CODE` where something is damaged.
import { ClassicLevel } from 'classic-level'
import { DAMAGED_EXIT_CODE, isDamagedRow, repairDatabase } from './level-damage.ts'

async function readAll(folder: string): Promise<void> {
  const db = new ClassicLevel<Uint8Array, Uint8Array>(folder, { keyEncoding: 'view', valueEncoding: 'view' })
  await db.open({ createIfMissing: false })
  const rows = db.iterator({ fillCache: false })
  while ((await rows.nextv(1000)).length > 0) continue
  await rows.close()
  await db.close()
}

// Whoever asked has ended: LevelDB's lock must not outlive it, and a thread of LevelDB may be in the middle of a table.
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
const [folder = '', mode] = process.argv.slice(2)
try {
  // What ends the process before this has nothing to do with the database.
  process.send?.('reading')
  if (mode === 'repair') await repairDatabase(folder)
  await readAll(folder)
  process.exit(0)
} catch (error) {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  console.error(cause instanceof Error ? cause.message : String(cause))
  process.exit(isDamagedRow(cause) ? DAMAGED_EXIT_CODE : 1)
}
