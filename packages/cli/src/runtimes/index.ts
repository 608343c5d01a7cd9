export { applyChange, showChange } from './file-change.ts'
export { isInstalled, type Plan, type Runtime, type Wish } from './runtime.ts'
import { docker } from './docker.ts'
import { containerd, podman } from './drop-in.ts'
import type { Runtime } from './runtime.ts'

export const RUNTIMES: readonly Runtime[] = [containerd, docker, podman]

/** Registries of most images in use. */
export const COMMON_REGISTRIES = ['docker.io', 'ghcr.io', 'quay.io', 'registry.k8s.io', 'gcr.io', 'public.ecr.aws']
