// What is wrong with an agent's configuration though each value is right by itself: found before the daemon starts.
import { swarmKeyMistakes } from '@shoal/network/swarm-key'
import type { ConfigCheck } from '@shoal/oci'
import { accessFileKeys, accessFileMistakes } from '@shoal/registry/access-mistakes'
import { registryOptionMistakes } from '@shoal/upstream'
import type { AgentConfig } from './config.ts'
import { exposureMistakes } from './exposure.ts'

export const agentChecks: readonly ConfigCheck<AgentConfig>[] = [
  {
    keys: ['adminHost', 'adminTokenFile', 'adminTlsClientCaFile', 'mirrorHost', 'mirrorTlsClientCaFile'],
    find: exposureMistakes,
  },
  {
    keys: ['swarmKeyFiles'],
    readsFiles: true,
    find: ({ swarmKeyFiles }) => swarmKeyMistakes(swarmKeyFiles),
  },
  ...(['admin', 'mirror'] as const).map((api) => ({
    keys: accessFileKeys(api),
    readsFiles: true,
    find: (config: AgentConfig) => accessFileMistakes(api, config),
  })),
  {
    keys: ['registries'],
    readsFiles: true,
    find: ({ registries }) => registryOptionMistakes(registries),
  },
]
