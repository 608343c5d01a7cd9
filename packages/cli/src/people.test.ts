import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { plainText, shortDigest, showDuration, showSize, showTable } from './people.ts'

describe('people', () => {
  it('shows sizes', () => {
    const shown = [0, 1_023, 1_024, 1_536, 150 * 2 ** 20, 2 ** 40, NaN].map(showSize)
    assert.deepEqual(shown, ['0 B', '1023 B', '1.0 KiB', '1.5 KiB', '150 MiB', '1.0 TiB', '?'])
  })

  it('shows durations', () => {
    const shown = [0, 999, 1_000, 59_940, 200_000, 3_725_000, 187_200_000].map(showDuration)
    assert.deepEqual(shown, ['0 ms', '999 ms', '1.0 s', '59.9 s', '3 m 20 s', '1 h 2 m', '2 d 4 h'])
  })

  it('sets numbers and amounts to the right, but not names that begin with a digit', () => {
    assert.equal(
      showTable(
        ['A', 'SIZE', 'STATE'],
        [
          ['x', '5 B', '12D3'],
          ['yy', '100 B', '34XYZ'],
        ],
      ),
      'A    SIZE  STATE\nx     5 B  12D3\nyy  100 B  34XYZ',
    )
  })

  it('takes out what moves the cursor', () => assert.equal(plainText('a\u001b[2Jb\nc\u0007'), 'ab c '))
  it('shortens digests', () => assert.equal(shortDigest(`sha256:${'d'.repeat(64)}`), 'd'.repeat(12)))
})
