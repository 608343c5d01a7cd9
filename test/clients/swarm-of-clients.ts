// What the client tests have in common: a lab whose agents know two registry names, both of them the lab's origin, and
// the measuring of what moved between its agents.
import type { Lab, LabAgent, LabOptions, PushedImage } from '../lab/lab.ts'
import type { OriginKind } from '../lab/origins.ts'
import { MiB } from '../support/images.ts'
import type { ImageName, RuntimeKind } from './runtimes.ts'

/** A static busybox, a few KB, 200 MB. The big one last: runtimes that copy layers copy the ones below it. */
export const THREE_LAYERS = [3000, 200 * MiB]

export function labOptions(agents: number, originKind: OriginKind): LabOptions {
  return {
    agents,
    originKind,
    agentConfig: (_index, originHost) => {
      const origin = { endpoint: `http://${originHost}`, plainHttp: true }
      return { registries: { 'docker.io': origin, 'registry.test': origin } }
    },
  }
}

/** What a runtime calls a pushed image. */
export function nameOf(kind: RuntimeKind, image: PushedImage): ImageName {
  return { registry: kind.registry, repository: image.repository, tag: image.tag, digest: image.digest }
}

/** A repository name out of a sentence. */
export function slug(text: string): string {
  return text.replace(/[^a-z0-9]+/gi, '-').toLowerCase()
}

export interface Moved {
  fromOrigin: number
  fromPeers: number
  sent: number
}

async function moved(agent: LabAgent): Promise<Moved> {
  const [fromOrigin, fromPeers, sent] = await Promise.all([
    agent.received('origin'),
    agent.received('peer'),
    agent.sent(),
  ])
  return { fromOrigin, fromPeers, sent }
}

/** Runs the work and tells what each agent, and the origin, moved meanwhile. */
export async function measure(lab: Lab, work: () => Promise<unknown>): Promise<{ agents: Moved[]; origin: number }> {
  const before = await Promise.all(lab.agents.map(moved))
  const originBefore = await lab.origin.contentBytesSent()
  await work()
  const after = await Promise.all(lab.agents.map(moved))
  return {
    agents: after.map((now, i) => ({
      fromOrigin: now.fromOrigin - (before[i]?.fromOrigin ?? 0),
      fromPeers: now.fromPeers - (before[i]?.fromPeers ?? 0),
      sent: now.sent - (before[i]?.sent ?? 0),
    })),
    origin: (await lab.origin.contentBytesSent()) - originBefore,
  }
}
