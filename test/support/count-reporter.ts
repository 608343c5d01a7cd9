// A reporter for node:test that writes one JSON line at the end: how many passed, failed and were skipped, and which.
import type { TestEvent } from 'node:test/reporters'

export interface Counts {
  passed: number
  failed: number
  skipped: number
  skippedNames: string[]
  failedNames: string[]
}

export default async function* countReporter(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0, skippedNames: [], failedNames: [] }
  for await (const event of source) {
    if (event.type !== 'test:pass' && event.type !== 'test:fail') continue
    const { name, skip, todo, details } = event.data
    if (details.type === 'suite' && event.type === 'test:pass') continue
    if (skip !== undefined && skip !== false) {
      counts.skipped++
      counts.skippedNames.push(typeof skip === 'string' ? `${name} (${skip})` : name)
    } else if (event.type === 'test:pass') counts.passed++
    else if (todo === undefined || todo === false) {
      // A suite that failed only because of its tests was counted with them.
      const cause = (details as { error: Error & { failureType?: string } }).error
      if (cause.failureType === 'subtestsFailed') continue
      counts.failed++
      counts.failedNames.push(name)
    }
  }
  yield `${JSON.stringify(counts)}\n`
}
