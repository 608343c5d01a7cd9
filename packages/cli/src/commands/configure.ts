// `shoal configure`: has the runtimes of this machine pull through the agent, or as they did before.
import { InvalidReferenceError, parseRegistry } from '@shoal/oci'
import { EXIT_OK, UsageError } from '../exit-codes.ts'
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
  root: string
  registry?: string[]
  dryRun?: boolean
  undo?: boolean
}

export async function configureCommand(names: string[], options: ConfigureOptions, output: Output): Promise<number> {
  const wish = wishOf(options)
  const runtimes = await chosen(names)
  // All are planned before the first is changed: one that is refused leaves everything as it was.
  const plans = []
  for (const runtime of runtimes) {
    plans.push({ runtime, plan: await (options.undo === true ? runtime.planUndo(wish) : runtime.plan(wish)) })
  }
  for (const { runtime, plan } of plans) {
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
  return EXIT_OK
}

export function wishOf({ mirror: text, root, registry }: Pick<ConfigureOptions, 'mirror' | 'root' | 'registry'>): Wish {
  const mirror = URL.canParse(text) ? new URL(text) : undefined
  if (mirror === undefined || !['http:', 'https:'].includes(mirror.protocol) || mirror.pathname !== '/') {
    throw new UsageError(`--mirror ${JSON.stringify(text)} must be a URL without a path: http://127.0.0.1:7700`)
  }
  try {
    return { root, mirror, registries: (registry ?? COMMON_REGISTRIES).map(parseRegistry) }
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
