// `shoal configure`: has the runtimes of this machine pull through the agent, or as they did before.
import { isAbsolute } from 'node:path'
import { InvalidReferenceError, parseRegistry } from '@shoal/oci'
import { CommandError, EXIT_OK, UsageError } from '../exit-codes.ts'
import type { Output } from '../program.ts'
import {
  applyChange,
  COMMON_REGISTRIES,
  isInstalled,
  RUNTIMES,
  showChange,
  type Runtime,
  type Wish,
} from '../runtimes/index.ts'

export interface ConfigureOptions {
  mirror: string
  ca?: string
  root: string
  registry?: string[]
  dryRun?: boolean
  undo?: boolean
}

export async function configureCommand(names: string[], options: ConfigureOptions, output: Output): Promise<number> {
  const wish = wishOf(options)
  const runtimes = await chosen(names)
  const left: string[] = []
  for (const runtime of runtimes) {
    try {
      await configureOne(runtime, wish, options, output)
    } catch (error) {
      // What is wrong with the files of one is no reason to leave the others out.
      if (!(error instanceof CommandError) || runtimes.length === 1) throw error
      output.err(`${runtime.name}: ${error.message}\n`)
      left.push(runtime.name)
    }
  }
  if (left.length > 0) throw new CommandError(`left as it was, for the reason above: ${left.join(', ')}`)
  return EXIT_OK
}

async function configureOne(runtime: Runtime, wish: Wish, options: ConfigureOptions, output: Output): Promise<void> {
  const plan = await (options.undo === true ? runtime.planUndo(wish) : runtime.plan(wish))
  const changes = plan.changes.filter(({ before, after }) => before !== after)
  if (changes.length === 0) output.out(`${runtime.name}: nothing to change\n`)
  for (const change of changes) {
    if (options.dryRun === true) output.out(showChange(change))
    else {
      await applyChange(change)
      output.out(`${runtime.name}: ${change.after === undefined ? 'removed' : 'wrote'} ${change.path}\n`)
    }
  }
  const notes = plan.obstacle === undefined ? plan.notes : [...plan.notes, plan.obstacle]
  for (const note of notes) output.err(`${runtime.name}: ${note}\n`)
}

export function wishOf({
  mirror: text,
  ca,
  root,
  registry,
}: Pick<ConfigureOptions, 'mirror' | 'ca' | 'root' | 'registry'>): Wish {
  const mirror = URL.canParse(text) ? new URL(text) : undefined
  if (mirror === undefined || !['http:', 'https:'].includes(mirror.protocol) || mirror.pathname !== '/') {
    throw new UsageError(`--mirror ${JSON.stringify(text)} must be a URL without a path: http://127.0.0.1:7700`)
  }
  if (ca !== undefined && (mirror.protocol === 'http:' || !isAbsolute(ca))) {
    throw new UsageError(`--ca must be the whole path of a file, beside a --mirror with https://`)
  }
  try {
    return {
      root,
      mirror,
      ...(ca === undefined ? {} : { ca }),
      registries: (registry ?? COMMON_REGISTRIES).map(parseRegistry),
    }
  } catch (error) {
    if (error instanceof InvalidReferenceError) throw new UsageError(error.message)
    throw error
  }
}

async function chosen(names: string[]): Promise<Runtime[]> {
  if (names.length === 0) {
    const found = []
    for (const runtime of RUNTIMES) if (await isInstalled(runtime)) found.push(runtime)
    if (found.length > 0) return found
    const known = RUNTIMES.map(({ name }) => name).join(', ')
    throw new UsageError(`no container runtime is installed here; name one to write its files all the same: ${known}`)
  }
  const wanted = names.map((name) => {
    const runtime = RUNTIMES.find((one) => one.name === (name === 'cri-o' || name === 'crio' ? 'podman' : name))
    if (runtime !== undefined) return runtime
    throw new UsageError(`${JSON.stringify(name)} is none of containerd, docker, podman, cri-o`)
  })
  // podman and cri-o are one: what is planned twice cannot be removed twice.
  return [...new Set(wanted)]
}
