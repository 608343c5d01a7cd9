import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { QuantityError, formatQuantity, parseQuantity, type Unit } from './quantities.ts'

describe('parseQuantity', () => {
  const good: [string, Unit, number][] = [
    ['0', 'ms', 0],
    ['500ms', 'ms', 500],
    ['30s', 'ms', 30_000],
    ['1.5s', 'ms', 1_500],
    ['1m30s', 'ms', 90_000],
    ['2h', 'ms', 7_200_000],
    ['1d', 'ms', 86_400_000],
    [' 5m ', 'ms', 300_000],
    ['1024', 'bytes', 1_024],
    ['500MB', 'bytes', 500_000_000],
    ['10GiB', 'bytes', 10 * 2 ** 30],
    ['10Gi', 'bytes', 10 * 2 ** 30],
    ['1.5 KiB', 'bytes', 1_536],
    ['100MB/s', 'bytesPerSecond', 100_000_000],
    ['10 MiB/s', 'bytesPerSecond', 10 * 2 ** 20],
    ['100mbit', 'bytesPerSecond', 12_500_000],
    ['1Gbit/s', 'bytesPerSecond', 125_000_000],
    ['2500', 'bytesPerSecond', 2_500],
  ]
  for (const [text, unit, value] of good) {
    it(`reads ${JSON.stringify(text)} as ${value} ${unit}`, () => assert.equal(parseQuantity(text, unit), value))
  }

  const bad: [string, Unit, RegExp][] = [
    ['30', 'ms', /say which unit, 30s or 30ms/],
    ['30 seconds', 'ms', /must be a duration/],
    ['-5s', 'ms', /must be a duration/],
    ['s', 'ms', /must be a duration/],
    ['', 'bytes', /must be a size/],
    ['10gib', 'bytes', /did you mean 10GiB/],
    ['10Gb', 'bytes', /B is for bytes/],
    ['-1', 'bytes', /must be a size/],
    ['1e9', 'bytes', /must be a size/],
    ['900000TiB', 'bytes', /too much/],
    ['100MB', 'bytesPerSecond', /ends with \/s/],
    ['100mbps', 'bytesPerSecond', /must be a rate/],
    ['100Mb/s', 'bytesPerSecond', /B is for bytes/],
  ]
  for (const [text, unit, message] of bad) {
    it(`refuses ${JSON.stringify(text)} as ${unit}`, () => {
      assert.throws(
        () => parseQuantity(text, unit),
        (error) => error instanceof QuantityError && message.test(error.message),
      )
    })
  }

  it('reads what formatQuantity wrote as the same number', () => {
    const units: Unit[] = ['ms', 'bytes', 'bytesPerSecond']
    fc.assert(
      fc.property(
        fc.constantFrom(...units),
        fc.nat({ max: 2 ** 31 - 1 }),
        fc.constantFrom(1, 1_000, 1_024, 60_000),
        (unit, n, factor) => {
          assert.equal(parseQuantity(formatQuantity(n * factor, unit), unit), n * factor)
        },
      ),
    )
  })

  it('gives a whole number or a QuantityError for any text', () => {
    fc.assert(
      fc.property(
        fc.string({ maxLength: 30 }),
        fc.constantFrom<Unit>('ms', 'bytes', 'bytesPerSecond'),
        (text, unit) => {
          try {
            const value = parseQuantity(text, unit)
            assert.ok(Number.isSafeInteger(value) && value >= 0)
          } catch (error) {
            assert.ok(error instanceof QuantityError)
          }
        },
      ),
    )
  })
})
