// Checks plain values against a daemon's schema and turns what a validator says into what a person can act on: the
// place, the key, the rule, and what was probably meant.
import { resolve } from 'node:path'
import { holdsSwarmKey } from '@shoal/network/swarm-key'
import { Ajv2019, type ErrorObject, type ValidateFunction } from 'ajv/dist/2019.js'
import { kindOf, memberSchema, type KeySchema } from './keys.ts'
import { nearest, type Mistake } from './mistakes.ts'
import { QuantityError, formatQuantity, howToWrite, parseQuantity } from './quantities.ts'
import { dotted, pointerStep } from './yaml-file.ts'

/** Values from one place: a file, the environment or the flags. */
export interface Source {
  values: Record<string, unknown>
  placeOf: (pointer: string, part: 'key' | 'value') => string
  /** What relative paths are relative to. */
  baseDirectory: string
}

export interface CheckedSource {
  /** Durations in ms, sizes in bytes, paths absolute. Without keys that have a mistake. */
  values: Record<string, unknown>
  /** Top-level keys that were given, rightly or wrongly: those that have a value. */
  given: Set<string>
  /** Top-level keys that have a mistake. */
  wrong: Set<string>
  mistakes: Mistake[]
}

const validators = new WeakMap<KeySchema, ValidateFunction>()

/** A validator of what is there; what is missing depends on all sources together, see `load.ts`. */
function validatorOf(schema: KeySchema): ValidateFunction {
  const known = validators.get(schema)
  if (known) return known
  const ajv = new Ajv2019({ allErrors: true, verbose: true, strict: true, strictTypes: false, strictRequired: false })
  ajv.addVocabulary(['unit', 'mustBe', 'secret', 'section'])
  ajv.addFormat('path', (text) => text !== '' && !text.includes('\0'))
  const validator = ajv.compile({ ...schema, required: [], dependentRequired: {} })
  validators.set(schema, validator)
  return validator
}

const TYPE_NAMES: Record<string, string> = {
  string: 'a text',
  integer: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a map of keys and values',
}

/** A text without what may be a secret: the user of a URL and its query, and a key where its file is wanted. */
function withoutSecrets(text: string): string {
  if (holdsSwarmKey(text)) return 'a swarm key'
  const scheme = /^\s*[a-z][a-z0-9+.-]*:\/\//i.exec(text)?.[0] ?? ''
  const rest = text.slice(scheme.length)
  // Up to the last @: a password may have one, or a slash, that should have been escaped.
  const shown = scheme + (rest.includes('@') ? `…${rest.slice(rest.lastIndexOf('@'))}` : rest)
  return scheme === '' ? shown : shown.replace(/\?.*$/s, '?…')
}

function show(value: unknown): string {
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  if (typeof value === 'string') {
    const shown = withoutSecrets(value)
    return JSON.stringify(shown.length > 60 ? `${shown.slice(0, 60)}…` : shown)
  }
  if (Array.isArray(value)) return 'a list'
  return typeof value === 'object' && value !== null ? 'a map' : 'nothing'
}

function describeType(schema: KeySchema, data: unknown): string {
  const type = schema.type ?? ''
  const wanted = schema.mustBe ?? (schema.unit ? howToWrite(schema.unit) : (TYPE_NAMES[type] ?? type))
  const shown = schema.secret ? `a ${typeof data}` : show(data)
  let hint = ''
  if (type === 'string' && (typeof data === 'number' || typeof data === 'boolean')) hint = ': put it in quotes'
  if (type === 'integer' && typeof data === 'string' && /^\d+$/.test(data)) hint = ': leave the quotes out'
  if (type === 'array' && typeof data === 'string') hint = `: write [${show(data)}]`
  return `must be ${wanted}, not ${shown}${hint}`
}

function describe(error: ErrorObject): string {
  const schema = error.parentSchema as KeySchema
  const params = error.params as Record<string, unknown>
  const shown = schema.secret ? '' : `, not ${show(error.data)}`
  const amount = (value: unknown) => (schema.unit ? formatQuantity(Number(value), schema.unit) : String(value))
  switch (error.keyword) {
    case 'type':
      return describeType(schema, error.data)
    case 'enum': {
      const meant = typeof error.data === 'string' ? nearest(error.data, schema.enum ?? []) : undefined
      const hint = meant === undefined ? '' : ` (did you mean ${meant}?)`
      return `must be one of ${(schema.enum ?? []).join(', ')}${shown}${hint}`
    }
    case 'minimum':
    case 'maximum': {
      if (schema.mustBe !== undefined) return `must be ${schema.mustBe}${shown}`
      const given = typeof error.data === 'number' ? amount(error.data) : show(error.data)
      return `must be ${error.keyword === 'minimum' ? 'at least' : 'at most'} ${amount(params['limit'])}, not ${given}`
    }
    case 'format':
      return 'must be the path of a file or directory'
    case 'minItems':
      return 'must have at least one entry'
    case 'maxItems':
    case 'maxProperties':
      return `must have at most ${String(params['limit'])} entries`
    case 'minLength':
      return 'must not be empty'
    case 'required':
    case 'dependentRequired':
      return `needs ${String(params['missingProperty'])} beside it`
    default:
      return schema.mustBe === undefined ? (error.message ?? 'is wrong') : `must be ${schema.mustBe}${shown}`
  }
}

function toMistake(error: ErrorObject, source: Source): Mistake {
  const schema = error.parentSchema as KeySchema
  if (error.keyword === 'additionalProperties') {
    const name = String((error.params as Record<string, unknown>)['additionalProperty'])
    const pointer = error.instancePath + pointerStep(name)
    const where = source.placeOf(pointer, 'key')
    if (schema.patternProperties) return { where, key: dotted(pointer), message: 'is not a registry host' }
    const meant = nearest(name, Object.keys(schema.properties ?? {}))
    const hint = meant === undefined ? '' : `: did you mean ${meant}?`
    return { where, key: dotted(pointer), message: `is not a known key${hint}` }
  }
  const property = error.keyword === 'dependentRequired' ? String((error.params as { property: string }).property) : ''
  const pointer = error.instancePath + (property === '' ? '' : pointerStep(property))
  const part = property === '' ? 'value' : 'key'
  const message = error.keyword === 'not' ? `must be ${schema.mustBe ?? 'something else'}` : describe(error)
  return { where: source.placeOf(pointer, part), key: dotted(pointer), message }
}

function topKey(pointer: string): string {
  return pointer.split('/')[1] ?? ''
}

/** Checks what one source gives and normalises it. Does not ask for what is missing. */
export function checkSource(schema: KeySchema, source: Source): CheckedSource {
  const mistakes: Mistake[] = []
  const wrong = new Set<string>()

  const wrongQuantity = (pointer: string, message: string) => {
    wrong.add(topKey(pointer))
    mistakes.push({ where: source.placeOf(pointer, 'value'), key: dotted(pointer), message })
    return undefined
  }

  // Texts with a unit become numbers; a key without a value counts as not given.
  const normalise = (value: unknown, part: KeySchema | undefined, pointer: string): unknown => {
    if (part === undefined || value === null || value === undefined) return value
    if (part.unit !== undefined) {
      if (part.unit === 'ms' && typeof value === 'number' && value !== 0) {
        return wrongQuantity(pointer, `must be ${howToWrite('ms')}, not ${value}: say which unit`)
      }
      if (typeof value !== 'string') return value
      try {
        return parseQuantity(value, part.unit)
      } catch (error) {
        if (!(error instanceof QuantityError)) throw error
        return wrongQuantity(pointer, error.message)
      }
    }
    if (Array.isArray(value)) {
      return value.map((item, index) => normalise(item, part.items, pointer + pointerStep(index)))
    }
    if (typeof value === 'object' && (kindOf(part) === 'map' || part.properties)) {
      const result: Record<string, unknown> = {}
      for (const [name, member] of Object.entries(value)) {
        if (member === null) continue
        const memberPart = part.properties ? part.properties[name] : memberSchema(part)
        const normalised = normalise(member, memberPart, pointer + pointerStep(name))
        if (normalised === undefined) continue
        // defineProperty: a key called __proto__ stays a key, and is refused like any other.
        Object.defineProperty(result, name, { value: normalised, enumerable: true, writable: true, configurable: true })
      }
      return result
    }
    return value
  }

  const values = normalise(source.values, schema, '') as Record<string, unknown>
  const validator = validatorOf(schema)
  if (!validator(values)) {
    for (const error of validator.errors ?? []) {
      mistakes.push(toMistake(error, source))
      wrong.add(topKey(error.instancePath))
    }
  }
  for (const name of Object.keys(values)) if (wrong.has(name) || !schema.properties?.[name]) delete values[name]
  absolutePaths(values, schema, source.baseDirectory)
  const given = Object.keys(source.values).filter((name) => source.values[name] !== null)
  return { values, given: new Set(given), wrong, mistakes }
}

/** Makes paths absolute, in place. */
export function absolutePaths(values: Record<string, unknown>, schema: KeySchema, baseDirectory: string): void {
  for (const [name, value] of Object.entries(values)) {
    const part = schema.properties ? schema.properties[name] : memberSchema(schema)
    if (!part) continue
    if (part.format === 'path' && typeof value === 'string') values[name] = resolve(baseDirectory, value)
    else if (part.items?.format === 'path' && Array.isArray(value)) {
      values[name] = value.map((item) => resolve(baseDirectory, String(item)))
    } else if (kindOf(part) === 'entries' && Array.isArray(value)) {
      for (const item of value) absolutePaths(item as Record<string, unknown>, part.items ?? {}, baseDirectory)
    } else if (kindOf(part) === 'map') absolutePaths(value as Record<string, unknown>, part, baseDirectory)
  }
}
