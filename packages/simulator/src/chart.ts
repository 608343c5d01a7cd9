// The completion curve of a run as a small SVG: which share of the nodes had the image after how long.
import type { Outcome } from './outcome.ts'
import type { Scenario } from './scenario.ts'

const WIDTH = 640
const HEIGHT = 300
const LEFT = 52
const TOP = 34
const RIGHT = 16
const BOTTOM = 42
/** Points of the curve at most. */
const POINTS = 120

/** Draws the curve. The same outcome gives the same text. */
export function completionCurve(scenario: Scenario, outcome: Outcome): string {
  const { times } = outcome
  const longest = Math.max(1.2, (times[times.length - 1] ?? 1) * 1.02)
  const x = (time: number) => LEFT + (time / longest) * (WIDTH - LEFT - RIGHT)
  const y = (share: number) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)
  const points: string[] = [`${x(0).toFixed(1)},${y(0).toFixed(1)}`]
  const step = Math.max(1, Math.floor(times.length / POINTS))
  for (let at = 0; at < times.length; at += step) point(at)
  if (times.length > 0) point(times.length - 1)
  function point(at: number) {
    points.push(`${x(times[at]!).toFixed(1)},${y((at + 1) / outcome.healthy).toFixed(1)}`)
  }
  const ticks = ticksUpTo(longest).map(
    (tick) =>
      `<line x1="${x(tick).toFixed(1)}" y1="${y(1)}" x2="${x(tick).toFixed(1)}" y2="${y(0)}" stroke="#e3e6ea"/>` +
      text(x(tick), HEIGHT - BOTTOM + 16, String(tick), 'middle'),
  )
  const shares = [0, 0.25, 0.5, 0.75, 1].map(
    (share) =>
      `<line x1="${LEFT}" y1="${y(share)}" x2="${WIDTH - RIGHT}" y2="${y(share)}" stroke="#e3e6ea"/>` +
      text(LEFT - 6, y(share) + 4, `${share * 100} %`, 'end'),
  )
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="11">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    text(LEFT, 18, escapeText(scenario.title), 'start', '#111'),
    ...shares,
    ...ticks,
    `<line x1="${x(1).toFixed(1)}" y1="${y(1)}" x2="${x(1).toFixed(1)}" y2="${y(0)}" stroke="#c2410c" stroke-dasharray="4 3"/>`,
    `<polyline fill="none" stroke="#0f5fa8" stroke-width="2" points="${points.join(' ')}"/>`,
    text((LEFT + WIDTH) / 2, HEIGHT - 8, 'time from own start, relative to the ideal (dashed)', 'middle'),
    '</svg>',
    '',
  ].join('\n')
}

function text(x: number, y: number, content: string, anchor: string, fill = '#555'): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" fill="${fill}">${content}</text>`
}

function escapeText(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}

/** Round numbers along the axis. */
function ticksUpTo(longest: number): number[] {
  const step = [0.2, 0.5, 1, 2, 5, 10, 20].find((size) => longest / size <= 9) ?? 50
  const ticks: number[] = []
  for (let tick = 0; tick <= longest; tick = Math.round((tick + step) * 10) / 10) ticks.push(tick)
  return ticks
}
