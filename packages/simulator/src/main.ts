// Entry point of `scripts/simulate`.
import { simulateCommand } from './command.ts'

process.exitCode = await simulateCommand(process.argv.slice(2), (text) => process.stdout.write(text))
