// How a test names an image to another process: by what it is made from, so that both make the same bytes.
import { makeIndex, rawImage, runnableImage, type Image, type Index } from './images.ts'

export interface SingleSpec {
  kind: 'raw' | 'runnable'
  seed: string
  layerBytes: number[]
  docker?: boolean
  architecture?: string
}

export type ImageSpec = SingleSpec | { kind: 'index'; docker?: boolean; images: SingleSpec[] }

function buildSingle({ kind, seed, layerBytes, docker = false, architecture }: SingleSpec): Image {
  if (kind === 'raw') return rawImage(seed, layerBytes)
  const platform = architecture === undefined ? {} : { platform: { os: 'linux', architecture } }
  return runnableImage(seed, layerBytes, { docker, ...platform })
}

export function buildImage(spec: ImageSpec): Image | Index {
  if (spec.kind !== 'index') return buildSingle(spec)
  return makeIndex(spec.images.map(buildSingle), { docker: spec.docker ?? false })
}
