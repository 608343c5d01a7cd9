// What a schema of a daemon's keys says, in the form that environment, flags, checks and the reference need.
import { formatQuantity, type Unit } from './quantities.ts'

/** The part of JSON Schema that the daemons' schemas use, with their annotations. */
export interface KeySchema {
  type?: 'string' | 'integer' | 'boolean' | 'array' | 'object'
  title?: string
  description?: string
  default?: unknown
  enum?: readonly string[]
  minimum?: number
  maximum?: number
  minItems?: number
  required?: readonly string[] | undefined
  properties?: Record<string, KeySchema>
  patternProperties?: Record<string, KeySchema>
  items?: KeySchema
  dependentRequired?: Record<string, readonly string[]>
  format?: string
  /** The number is of this unit; a text with a unit is taken too. */
  unit?: Unit
  /** The rule in words: "must be …". */
  mustBe?: string
  /** Never shown or logged. */
  secret?: boolean
  /** Heading in the reference. */
  section?: string
}

export type KeyKind = 'text' | 'number' | 'boolean' | 'choice' | 'list' | 'map' | 'entries'

/** Kinds whose members have settings of their own: only a file can hold them. */
const FILE_ONLY: ReadonlySet<KeyKind> = new Set<KeyKind>(['map', 'entries'])

/** One top-level key. */
export interface ConfigKey {
  /** `mirrorPort` */
  name: string
  kind: KeyKind
  schema: KeySchema
  isRequired: boolean
  /** `SHOAL_MIRROR_PORT`; undefined for what only a file can hold: maps, and lists of maps. */
  variable: string | undefined
  /** `--mirror-port`; undefined like `variable`. */
  flag: string | undefined
}

function words(name: string): string[] {
  return name.split(/(?=[A-Z])/).map((word) => word.toLowerCase())
}

export function kindOf(schema: KeySchema): KeyKind {
  if (schema.enum) return 'choice'
  if (schema.type === 'array') return schema.items?.type === 'object' ? 'entries' : 'list'
  if (schema.type === 'object') return 'map'
  if (schema.type === 'boolean') return 'boolean'
  return schema.type === 'integer' ? 'number' : 'text'
}

/** The top-level keys of a schema, in its order. */
export function keysOf(schema: KeySchema): ConfigKey[] {
  return Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const kind = kindOf(property)
    const parts = words(name)
    return {
      name,
      kind,
      schema: property,
      isRequired: (schema.required ?? []).includes(name) && property.default === undefined,
      variable: FILE_ONLY.has(kind) ? undefined : `SHOAL_${parts.join('_').toUpperCase()}`,
      flag: FILE_ONLY.has(kind) ? undefined : `--${parts.join('-')}`,
    }
  })
}

/** The schema of the members of a map, or of a list of maps, if the key is one. */
export function memberSchema(schema: KeySchema): KeySchema | undefined {
  if (kindOf(schema) === 'entries') return schema.items
  return Object.values(schema.patternProperties ?? {})[0]
}

/** The default as one would write it; undefined where there is none, or where it is an empty list or map. */
export function showDefault(schema: KeySchema): string | undefined {
  const { default: value } = schema
  if (schema.unit !== undefined && typeof value === 'number') return formatQuantity(value, schema.unit)
  if (Array.isArray(value)) return value.length === 0 ? undefined : value.join(', ')
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
    ? String(value)
    : undefined
}
