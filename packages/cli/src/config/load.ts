// Puts a daemon's configuration together: flags before environment before file before defaults. Each source is checked
// for itself, so a mistake is reported even where another source overrides it.
import { dirname, resolve } from 'node:path'
import type { ConfigCheck, ConfigMistake } from '@shoal/oci'
import { checkSource, type Source } from './check.ts'
import { keysOf, type ConfigKey, type KeySchema } from './keys.ts'
import { ConfigError, nearest, type Mistake } from './mistakes.ts'
import { dotted, pointerStep, readYamlFile } from './yaml-file.ts'

/** `SHOAL_` variables that are no keys of a daemon. */
export const OTHER_VARIABLES = [
  'SHOAL_CONFIG',
  'SHOAL_NODE',
  'SHOAL_ADMIN_URL',
  'SHOAL_TRACKER_URL',
  'SHOAL_TOKEN_FILE',
  'SHOAL_TLS_CA',
  'SHOAL_TLS_CERT',
  'SHOAL_TLS_KEY',
]

/** What Kubernetes puts into the environment for a Service whose name starts with "shoal". */
const SERVICE_LINK_NAME = /_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$/
const SERVICE_LINK_VALUE = /^(tcp|udp|sctp):\/\//

export interface LoadOptions {
  schema: KeySchema
  /** Path of the file; without it there is none. */
  file?: string
  environment: Record<string, string | undefined>
  /** Values of flags by key: texts, or lists of texts. */
  flags?: Record<string, string | string[]>
  /** Schemas of the other daemons: their variables may be set in the same environment. */
  otherSchemas?: readonly KeySchema[]
  workingDirectory?: string
  /** What else is looked at: the values together, and the files that they name. */
  checks?: readonly ConfigCheck<Record<string, unknown>>[]
}

export interface LoadedConfig {
  values: Record<string, unknown>
  /** What is odd but not wrong. */
  warnings: string[]
}

/** A text from a flag or variable as the value that a file would hold. Leaves what it cannot read to the check. */
function fromText(key: ConfigKey, text: string): unknown {
  if (key.kind === 'list') {
    return text
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '')
  }
  if (key.kind === 'boolean') {
    if (/^(true|1)$/i.test(text)) return true
    if (/^(false|0)$/i.test(text)) return false
  }
  if (key.kind === 'number' && key.schema.unit === undefined && /^-?\d{1,15}(\.\d+)?$/.test(text.trim()))
    return Number(text)
  return text
}

function fromEnvironment(keys: ConfigKey[], options: LoadOptions, warnings: string[]): Source {
  const values: Record<string, unknown> = {}
  const variables = new Map(keys.flatMap((key) => (key.variable === undefined ? [] : [[key.variable, key]])))
  const elsewhere = new Set([
    ...OTHER_VARIABLES,
    ...(options.otherSchemas ?? []).flatMap((schema) => keysOf(schema).map((key) => key.variable)),
  ])
  for (const [name, value] of Object.entries(options.environment)) {
    if (!name.startsWith('SHOAL_') || value === undefined || value === '') continue
    const key = variables.get(name)
    const isServiceLink = SERVICE_LINK_NAME.test(name) || SERVICE_LINK_VALUE.test(value)
    if (key && key.kind === 'number' && isServiceLink) {
      warnings.push(`${name} looks like a Kubernetes service link and is ignored (set enableServiceLinks: false)`)
    } else if (key) {
      values[key.name] = fromText(key, value)
    } else if (!elsewhere.has(name) && !isServiceLink) {
      const meant = nearest(name, [...variables.keys()])
      warnings.push(`${name} is not a variable of Shoal and is ignored${meant ? `: did you mean ${meant}?` : ''}`)
    }
  }
  const names = new Map(keys.map((key) => [key.name, key.variable ?? key.name]))
  return {
    values,
    placeOf: (pointer) => names.get(pointer.split('/')[1] ?? '') ?? 'environment',
    baseDirectory: options.workingDirectory ?? process.cwd(),
  }
}

function fromFlags(keys: ConfigKey[], options: LoadOptions): Source {
  const values: Record<string, unknown> = {}
  for (const key of keys) {
    const given = options.flags?.[key.name]
    if (given === undefined) continue
    values[key.name] = Array.isArray(given) ? given.flatMap((text) => fromText(key, text)) : fromText(key, given)
  }
  const names = new Map(keys.map((key) => [key.name, key.flag ?? key.name]))
  return {
    values,
    placeOf: (pointer) => names.get(pointer.split('/')[1] ?? '') ?? 'flags',
    baseDirectory: options.workingDirectory ?? process.cwd(),
  }
}

async function fromFile(path: string, workingDirectory: string): Promise<Source & { mistakes: Mistake[] }> {
  const absolute = resolve(workingDirectory, path)
  return { ...(await readYamlFile(path, absolute)), baseDirectory: dirname(absolute) }
}

function missing(key: ConfigKey, file: string | undefined): Mistake {
  const ways = [`as ${key.name} in ${file ?? 'a file given with --config'}`, `as ${key.variable}`, `with ${key.flag}`]
  return { where: file ?? 'configuration', key: key.name, message: `is missing: give it ${ways.join(', ')}` }
}

/** What the checks find in keys that have no mistake already, with the places of what they name. */
async function furtherMistakes(
  checks: LoadOptions['checks'] = [],
  values: Record<string, unknown>,
  isWrong: (key: string) => boolean,
  placeOf: (mistake: ConfigMistake) => string,
): Promise<Mistake[]> {
  const possible = checks.filter(({ keys }) => !keys.some(isWrong))
  const found = (await Promise.all(possible.map(async ({ find }) => find(values)))).flat()
  return found.map((mistake) => ({
    where: placeOf(mistake),
    key: dotted(pointerTo(mistake)),
    message: mistake.message,
    ...(mistake.isForbidden === true && { isForbidden: true }),
  }))
}

function pointerTo({ key, below = [] }: ConfigMistake): string {
  return [key, ...below].map(pointerStep).join('')
}

/** In the order of the file; what has no line comes last. */
function byPlace(a: Mistake, b: Mistake): number {
  const [first, second] = [a, b].map(({ where }) => /:(\d+):(\d+)$/.exec(where)?.slice(1).map(Number))
  if (!first || !second) return Number(!first) - Number(!second)
  return (first[0] ?? 0) - (second[0] ?? 0) || (first[1] ?? 0) - (second[1] ?? 0)
}

/**
 * Loads and checks a configuration.
 *
 * @throws ConfigError with every mistake in it
 */
export async function loadConfig(options: LoadOptions): Promise<LoadedConfig> {
  const { schema } = options
  const keys = keysOf(schema)
  const warnings: string[] = []
  const mistakes: Mistake[] = []
  const workingDirectory = options.workingDirectory ?? process.cwd()

  const sources: Source[] = []
  let isFileReadable = true
  if (options.file !== undefined) {
    try {
      const { mistakes: misplaced, ...source } = await fromFile(options.file, workingDirectory)
      mistakes.push(...misplaced)
      sources.push(source)
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      isFileReadable = false
      mistakes.push(...error.mistakes)
    }
  }
  sources.push(fromEnvironment(keys, options, warnings), fromFlags(keys, options))

  const checked = sources.map((source) => checkSource(schema, source))
  mistakes.push(...checked.flatMap((source) => source.mistakes))

  const wrong = new Set(checked.flatMap((source) => [...source.wrong]))
  const values: Record<string, unknown> = {}
  for (const key of keys) if (key.schema.default !== undefined) values[key.name] = structuredClone(key.schema.default)
  for (const source of checked) Object.assign(values, source.values)

  const given = new Set(checked.flatMap((source) => [...source.given]))
  // Where the file cannot be read, nobody knows what is missing.
  if (isFileReadable) {
    for (const key of keys) {
      if (!key.isRequired || key.name in values || given.has(key.name)) continue
      mistakes.push(missing(key, options.file))
      wrong.add(key.name)
    }
  }
  for (const [name, needed] of Object.entries(schema.dependentRequired ?? {})) {
    const place = sources.find((source) => name in source.values)?.placeOf(`/${name}`, 'key')
    for (const other of needed) {
      if (values[name] !== undefined && values[other] === undefined && !given.has(other) && isFileReadable) {
        mistakes.push({ where: place ?? 'configuration', key: name, message: `needs ${other} beside it` })
        wrong.add(name)
      }
    }
  }
  if (isFileReadable) {
    const placeOf = (mistake: ConfigMistake) => {
      const source = sources.findLast(({ values: { [mistake.key]: value } }) => value !== undefined && value !== null)
      return source?.placeOf(pointerTo(mistake), 'value') ?? options.file ?? 'configuration'
    }
    const found = await furtherMistakes(options.checks, values, (key) => wrong.has(key), placeOf)
    mistakes.push(...found)
  }
  if (mistakes.length > 0) throw new ConfigError(mistakes.toSorted(byPlace))
  return { values, warnings }
}
