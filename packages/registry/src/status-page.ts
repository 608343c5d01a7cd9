// The page that a daemon shows to a person with a browser: facts and tables of this moment, loaded anew every few seconds. All of
// it is text of the daemon itself: nothing is fetched from elsewhere, and no script runs.
import { createHash } from 'node:crypto'
import type { FastifyInstance } from 'fastify'

/** Where the page is; whoever may read below `/api/` may read it. */
export const STATUS_PAGE_PATH = '/'

export interface StatusTable {
  title: string
  columns: readonly string[]
  /** A number is shown to the right; `share` as a bar. */
  rows: readonly (readonly StatusCell[])[]
  /** Shown when there are no rows. */
  otherwise: string
}

export type StatusCell = string | number | { share: number }

export interface StatusPage {
  /** What runs here: `Shoal agent`. */
  title: string
  facts: readonly (readonly [name: string, value: string])[]
  tables: readonly StatusTable[]
}

/** Rows of a table that are shown; the API below `/api/` tells more. */
export const MAX_STATUS_ROWS = 200
const REFRESH_SECONDS = 5

const STYLE = `
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.5rem; }
dt, th { opacity: .7; font-weight: normal; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; }
th, td { border-bottom: 1px solid #8884; padding: .25rem .75rem .25rem 0; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
footer { margin-top: 2rem; opacity: .7; }
`
const HEADERS = {
  'cache-control': 'no-store',
  'content-security-policy': `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
  'content-type': 'text/html; charset=utf-8',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
}

/** Adds the page to a daemon's API. */
export function addStatusPage(server: FastifyInstance, read: () => StatusPage): void {
  server.get(STATUS_PAGE_PATH, (_request, reply) => reply.headers(HEADERS).send(renderStatusPage(read())))
}

/** The page as HTML. */
export function renderStatusPage({ title, facts, tables }: StatusPage): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="${REFRESH_SECONDS}">
<title>${escaped(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escaped(title)}</h1>
<dl>
${facts.map(([name, value]) => `<dt>${escaped(name)}</dt><dd>${escaped(value)}</dd>`).join('\n')}
</dl>
${tables.map(renderTable).join('\n')}
<footer><a href="/api/v1/status">As JSON</a> · <a href="/metrics">Metrics</a> · <a href="/readyz">Readiness</a></footer>
</body>
</html>
`
}

function renderTable({ title, columns, rows, otherwise }: StatusTable): string {
  const heading = `<h2>${escaped(title)}</h2>`
  if (rows.length === 0) return `${heading}\n<p>${escaped(otherwise)}</p>`
  const isNumeric = columns.map((_, column) => typeof rows[0]?.[column] === 'number')
  const head = columns.map((name, column) => `<th${isNumeric[column] ? ' class="number"' : ''}>${escaped(name)}</th>`)
  const shown = rows.slice(0, MAX_STATUS_ROWS).map((row) => `<tr>${row.map(renderCell).join('')}</tr>`)
  const rest = rows.length - shown.length
  const more = rest > 0 ? `\n<p>and ${rest} more</p>` : ''
  return `${heading}\n<table>\n<tr>${head.join('')}</tr>\n${shown.join('\n')}\n</table>${more}`
}

function renderCell(cell: StatusCell): string {
  if (typeof cell === 'number') return `<td class="number">${cell}</td>`
  if (typeof cell === 'string') return `<td>${escaped(cell)}</td>`
  return `<td><progress max="1" value="${cell.share}"></progress> ${Math.floor(cell.share * 100)} %</td>`
}

/** Names come from clients and other nodes. */
function escaped(text: string): string {
  return text.replaceAll(/[&<>"'\p{Cc}]/gu, (character) => `&#${character.charCodeAt(0)};`)
}
