// What is wrong with a tracker's configuration though each value is right by itself: found before the daemon starts.
import { swarmKeyMistakes } from '@shoal/network/swarm-key'
import type { ConfigCheck } from '@shoal/oci'
import { accessFileKeys, accessFileMistakes } from '@shoal/registry/access-mistakes'
import type { TrackerConfig } from './config.ts'

export const trackerChecks: readonly ConfigCheck<TrackerConfig>[] = [
  { keys: ['swarmKeyFiles'], readsFiles: true, find: ({ swarmKeyFiles }) => swarmKeyMistakes(swarmKeyFiles) },
  { keys: accessFileKeys('http'), readsFiles: true, find: (config) => accessFileMistakes('http', config) },
]
