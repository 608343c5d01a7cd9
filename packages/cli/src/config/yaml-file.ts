// Reads a configuration file into plain values, remembering the place of each. A file is input like any other: its size,
// depth and number of values are bounded, and what YAML allows but nobody means (the same key twice) is a mistake.
import { open } from 'node:fs/promises'
import { LineCounter, isAlias, isMap, isScalar, isSeq, parseDocument, type Node as YamlNode } from 'yaml'
import { ConfigError, type Mistake } from './mistakes.ts'

export const MAX_FILE_BYTES = 256 * 1024
const MAX_DEPTH = 16
const MAX_VALUES = 20_000
const MAX_SYNTAX_MISTAKES = 20

export type PlainValue = null | boolean | number | string | PlainValue[] | { [key: string]: PlainValue }

export interface YamlFile {
  values: Record<string, PlainValue>
  /** Keys given twice and the like: the rest can still be checked. */
  mistakes: Mistake[]
  /** Place (`file:line:column`) of the value at a JSON pointer, or of its key. */
  placeOf: (pointer: string, part: 'key' | 'value') => string
}

interface Place {
  key: number
  value: number
}

/** Escapes one step of a JSON pointer (RFC 6901). */
export function pointerStep(name: string | number): string {
  return `/${String(name).replaceAll('~', '~0').replaceAll('/', '~1')}`
}

async function readBounded(path: string, name: string): Promise<string> {
  const fail = (message: string) => new ConfigError([{ where: name, key: '', message }])
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    const reason = error.code === 'ENOENT' ? 'there is no such file' : (error.code ?? error.message)
    throw fail(`the configuration file cannot be read: ${reason}`)
  })
  try {
    if (!(await file.stat()).isFile()) throw fail('the configuration is not a regular file')
    const buffer = Buffer.alloc(MAX_FILE_BYTES + 1)
    let length = 0
    for (;;) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length)
      length += bytesRead
      if (bytesRead === 0 || length === buffer.length) break
    }
    if (length > MAX_FILE_BYTES)
      throw fail(`the file is larger than ${MAX_FILE_BYTES / 1024} KiB: is it the right one?`)
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(buffer.subarray(0, length))
    } catch {
      throw fail('the file is not UTF-8 text: is it the right one?')
    }
  } finally {
    await file.close()
  }
}

/**
 * Reads a YAML (or JSON) file whose top level is a map.
 *
 * @param name - what the file is called in places
 * @throws ConfigError with what keeps it from being read as YAML
 */
export async function readYamlFile(name: string, path = name): Promise<YamlFile> {
  return parseYaml(await readBounded(path, name), name)
}

/** The library's parser calls itself for every level, and not all of its ways notice in time how deep that is. */
function parseBounded(text: string, name: string, options: Parameters<typeof parseDocument>[1]) {
  try {
    return parseDocument(text, options)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new ConfigError([{ where: name, key: '', message: 'the file is nested too deeply' }])
  }
}

/** As `readYamlFile`, for text that has been read. `name` stands for the file in places. */
export function parseYaml(text: string, name: string): YamlFile {
  const lines = new LineCounter()
  const place = (offset: number) => {
    const { line, col } = lines.linePos(offset)
    return `${name}:${Math.max(line, 1)}:${Math.max(col, 1)}`
  }
  const document = parseBounded(text, name, {
    lineCounter: lines,
    prettyErrors: false,
    // Found below, where both places are known and the search is not quadratic.
    uniqueKeys: false,
    logLevel: 'error',
  })
  const problems = [...document.errors, ...document.warnings].slice(0, MAX_SYNTAX_MISTAKES)
  if (problems.length > 0) {
    throw new ConfigError(
      problems.map(({ code, message, pos }) => ({
        where: place(pos[0]),
        key: '',
        message: code === 'RESOURCE_EXHAUSTION' ? 'the file is nested too deeply' : `not valid YAML: ${message}`,
      })),
    )
  }

  const places = new Map<string, Place>()
  const anchors = new Map<string, YamlNode>()
  const mistakes: Mistake[] = []
  let valuesSeen = 0

  const plain = (node: YamlNode | null | undefined, pointer: string, keyOffset: number, depth: number): PlainValue => {
    const offset = node?.range?.[0] ?? keyOffset
    if (!places.has(pointer)) places.set(pointer, { key: keyOffset, value: offset })
    // Aliases make a small file expand without end; the two bounds hold for what it expands to.
    if (++valuesSeen > MAX_VALUES) {
      throw new ConfigError([
        { where: place(offset), key: '', message: `the file holds more than ${MAX_VALUES} values` },
      ])
    }
    if (depth > MAX_DEPTH) {
      throw new ConfigError([{ where: place(offset), key: '', message: 'the file is nested too deeply' }])
    }
    if (node === null || node === undefined) return null
    if (isAlias(node)) {
      const target = anchors.get(node.source)
      if (target) return plain(target, pointer, keyOffset, depth + 1)
      mistakes.push({ where: place(offset), key: '', message: `*${node.source} refers to nothing before it` })
      return null
    }
    if ((isScalar(node) || isMap(node) || isSeq(node)) && node.anchor !== undefined) anchors.set(node.anchor, node)
    if (isScalar(node)) {
      const { value } = node
      return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? value : null
    }
    if (isSeq(node)) {
      return node.items.map((item, index) => plain(item as YamlNode, pointer + pointerStep(index), offset, depth + 1))
    }
    if (isMap(node)) {
      const result = Object.create(null) as Record<string, PlainValue>
      const first = new Map<string, number>()
      for (const pair of node.items) {
        const key = pair.key as YamlNode | null
        const at = key?.range?.[0] ?? offset
        if (!isScalar(key) || !['string', 'number', 'boolean'].includes(typeof key.value)) {
          mistakes.push({ where: place(at), key: '', message: 'a key must be plain text' })
          continue
        }
        const keyName = String(key.value)
        const before = first.get(keyName)
        if (before !== undefined) {
          const message = `is given twice, first at ${place(before)}`
          mistakes.push({ where: place(at), key: dotted(pointer + pointerStep(keyName)), message })
          continue
        }
        first.set(keyName, at)
        result[keyName] = plain(pair.value as YamlNode | null, pointer + pointerStep(keyName), at, depth + 1)
      }
      return result
    }
    return null
  }

  const values = plain(document.contents, '', 0, 0)
  const isMapOfKeys = typeof values === 'object' && values !== null && !Array.isArray(values)
  if (values !== null && !isMapOfKeys) {
    mistakes.push({ where: place(0), key: '', message: 'the file must hold keys and values, as `mirrorPort: 7700`' })
  }
  return {
    values: isMapOfKeys ? values : {},
    mistakes,
    placeOf: (pointer, part) => place(places.get(pointer)?.[part] ?? 0),
  }
}

/** `/registries/ghcr.io/proxy` as people write it: `registries."ghcr.io".proxy`. */
export function dotted(pointer: string): string {
  return pointer
    .split('/')
    .slice(1)
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))
    .map((step, index) => {
      if (/^\d+$/.test(step) && index > 0) return `[${step}]`
      const shown = step.length > 80 ? `${step.slice(0, 80)}…` : step
      return `${index > 0 ? '.' : ''}${/^[\w-]+$/.test(shown) ? shown : JSON.stringify(shown)}`
    })
    .join('')
}
