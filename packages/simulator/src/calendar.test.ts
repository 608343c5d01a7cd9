import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { Calendar } from './calendar.ts'

test('actions run in their step, in the order of entry, near and far', () => {
  const calendar = new Calendar(0.5)
  const seen: string[] = []
  const note = (name: string) => () => seen.push(`${name} ${calendar.nowMs}`)
  calendar.after(1, note('a'))
  calendar.after(0, note('soon'))
  calendar.after(1, () => {
    note('b')()
    calendar.after(0, note('after b'))
  })
  calendar.after(5000, note('far'))
  for (let step = 0; step < 10_001; step++) calendar.advance()
  assert.deepEqual(seen, ['soon 0.5', 'a 1', 'b 1', 'after b 1.5', 'far 5000'])
})
