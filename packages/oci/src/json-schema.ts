// Builds JSON Schemas whose TypeScript types are known. The types are typebox's; its own builder is not loaded, because
// it brings its whole type engine along: 370 files and 5 MB in every daemon, for the eight words below.
import type { Type as TypeBox } from 'typebox'

type Words = 'Array' | 'Boolean' | 'Enum' | 'Integer' | 'Object' | 'Optional' | 'Record' | 'String'
type Schema = Record<string, unknown>

/** Marks what an object may lack. Not enumerable: it is not part of the schema. */
const optional = Symbol('optional')

const typed =
  (type: string) =>
  (options: Schema = {}): Schema => ({ type, ...options })

const words = {
  Boolean: typed('boolean'),
  Integer: typed('integer'),
  String: typed('string'),
  Enum: (values: readonly unknown[], options: Schema = {}): Schema => ({ enum: [...values], ...options }),
  Array: (items: Schema, options: Schema = {}): Schema => ({ type: 'array', items, ...options }),
  Optional: (schema: Schema): Schema => Object.defineProperty({ ...schema }, optional, { value: true }),
  Object: (properties: Record<string, Schema>, options: Schema = {}): Schema => {
    const required = Object.keys(properties).filter((name) => !(optional in (properties[name] ?? {})))
    return { type: 'object', ...(required.length > 0 && { required }), properties, ...options }
  },
  Record: ({ pattern }: Schema, values: Schema, options: Schema = {}): Schema => ({
    type: 'object',
    patternProperties: { [String(pattern)]: values },
    ...options,
  }),
} satisfies Record<Words, unknown>

export const Type = words as unknown as Pick<typeof TypeBox, Words>

export type { Static } from 'typebox'
