// Which child of an index a machine takes. The order of preference is that of containerd's `platforms.Only`.
import type { Descriptor, ImageIndex } from './manifest.ts'

/** Where a child of an index runs, in the words of the OCI image index. */
export interface Platform {
  os: string
  architecture: string
  variant?: string
  osVersion?: string
  osFeatures?: string[]
}

/** A text is not `os/architecture[/variant]`. */
export class InvalidPlatformError extends Error {
  override readonly name = 'InvalidPlatformError'

  constructor(value: string) {
    super(`invalid platform ${JSON.stringify(value.slice(0, 100))}: expected os/architecture[/variant], as linux/arm64`)
  }
}

const PART_PATTERN = /^[a-z0-9_.-]{1,64}$/
const OS_NAMES: Readonly<Record<string, string>> = { macos: 'darwin', win32: 'windows' }
/** Other names of architectures, those of Node and of the Linux kernel among them. */
const ARCHITECTURES: Readonly<Record<string, readonly [architecture: string, variant?: string]>> = {
  x64: ['amd64'],
  x86_64: ['amd64'],
  'x86-64': ['amd64'],
  ia32: ['386'],
  i386: ['386'],
  i686: ['386'],
  aarch64: ['arm64'],
  armhf: ['arm', 'v7'],
  armel: ['arm', 'v6'],
}

/**
 * Reads `os/architecture[/variant]`.
 * @throws InvalidPlatformError
 */
export function parsePlatform(value: string): Platform {
  const [os, architecture, variant, ...more] = value.toLowerCase().split('/')
  const parts = variant === undefined ? [os, architecture] : [os, architecture, variant]
  if (os === undefined || architecture === undefined || more.length > 0) throw new InvalidPlatformError(value)
  if (!parts.every((part) => part !== undefined && PART_PATTERN.test(part))) throw new InvalidPlatformError(value)
  return normalizePlatform(variant === undefined ? { os, architecture } : { os, architecture, variant })
}

export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = platform
  return variant === undefined || variant === '' ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`
}

/** One spelling for each platform: `aarch64/8` and `arm64/v8` become `arm64`, `arm` becomes `arm/v7`. */
export function normalizePlatform(platform: Platform): Platform {
  const named = platform.architecture.toLowerCase()
  const alias = Object.hasOwn(ARCHITECTURES, named) ? ARCHITECTURES[named] : undefined
  const architecture = alias?.[0] ?? named
  let variant = platform.variant?.toLowerCase()
  if (variant === '') variant = undefined
  variant ??= alias?.[1]
  if (variant !== undefined && /^[0-9]/.test(variant)) variant = `v${variant}`
  if (architecture === 'arm') variant ??= 'v7'
  if ((architecture === 'arm64' && variant === 'v8') || (architecture === 'amd64' && variant === 'v1')) {
    variant = undefined
  }
  const os = platform.os.toLowerCase()
  const normal: Platform = { os: (Object.hasOwn(OS_NAMES, os) ? OS_NAMES[os] : undefined) ?? os, architecture }
  if (variant !== undefined) normal.variant = variant
  if (platform.osVersion !== undefined) normal.osVersion = platform.osVersion
  if (platform.osFeatures !== undefined) normal.osFeatures = platform.osFeatures
  return normal
}

/** For what an image is, by its configuration; undefined where that does not say. */
export function platformOfConfig(config: Readonly<Record<string, unknown>>): Platform | undefined {
  const { os, architecture, variant } = config
  const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''
  if (!isText(os) || !isText(architecture)) return undefined
  return isText(variant) ? { os, architecture, variant } : { os, architecture }
}

/** Whether a machine runs an image that is for `actual`, by the rule for the children of an index. */
export function isPlatformFor(actual: Platform, wanted: Platform): boolean {
  // An image that names no variant is for all of them.
  const { os, architecture } = wanted
  const machine = normalizePlatform(actual.variant === undefined ? { os, architecture } : wanted)
  const platform = normalizePlatform(actual)
  return platform.os === machine.os && runnable(machine).includes(runKey(platform))
}

function runKey({ architecture, variant = '' }: Platform): string {
  return `${architecture}/${variant}`
}

/** What a machine can run, best first, as `architecture/variant`. */
function runnable(platform: Platform): string[] {
  const { architecture } = platform
  const level = Number(/^v([0-9])(?:$|\.)/.exec(platform.variant ?? '')?.[1] ?? Number.NaN)
  const down = (name: string, from: number, to: number): string[] =>
    Array.from({ length: Math.max(0, from - to + 1) }, (_, step) => `${name}/v${from - step}`)
  switch (architecture) {
    case 'amd64':
      return [...(level > 1 ? down('amd64', level, 2) : []), 'amd64/', '386/']
    case 'arm64':
      return [...(level > 8 ? down('arm64', level, 9) : []), 'arm64/', ...down('arm', 8, 5)]
    case 'arm':
      return Number.isNaN(level) ? [`arm/${platform.variant ?? ''}`] : down('arm', level, 5)
    default:
      return [`${architecture}/${platform.variant ?? ''}`]
  }
}

/**
 * The child of an index that suits a machine best; undefined if none does. With `osVersion` given, a child of the same
 * version goes before the others.
 */
export function selectPlatform(index: ImageIndex, wanted: Platform): Descriptor | undefined {
  const machine = normalizePlatform(wanted)
  const order = runnable(machine)
  let best: { rank: number; child: Descriptor } | undefined
  for (const child of index.manifests) {
    if (child.platform === undefined) continue
    const platform = normalizePlatform(child.platform)
    if (platform.os !== machine.os) continue
    const place = order.indexOf(runKey(platform))
    if (place === -1) continue
    const sameVersion = machine.osVersion === undefined || platform.osVersion === machine.osVersion
    const rank = place * 2 + (sameVersion ? 0 : 1)
    if (best === undefined || rank < best.rank) best = { rank, child }
  }
  return best?.child
}
