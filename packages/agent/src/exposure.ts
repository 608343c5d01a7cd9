// The rule for addresses that other machines reach: whoever reaches the admin API can start pulls, and whoever reaches
// the mirror endpoint can pull, so both stay on the loopback unless they ask who is there.
import type { ConfigMistake } from '@shoal/oci'
import { isLoopbackHost } from '@shoal/registry/access'
import type { AgentConfig } from './config.ts'

type Addresses = Pick<
  AgentConfig,
  'adminHost' | 'adminTokenFile' | 'adminTlsClientCaFile' | 'mirrorHost' | 'mirrorTlsClientCaFile'
>

/** Addresses beyond the loopback that anybody could use. */
export function exposureMistakes(config: Addresses): ConfigMistake[] {
  const mistakes: ConfigMistake[] = []
  const isAdminGuarded = config.adminTokenFile !== undefined || config.adminTlsClientCaFile !== undefined
  if (!isLoopbackHost(config.adminHost) && !isAdminGuarded) {
    mistakes.push({
      key: 'adminHost',
      message:
        `${config.adminHost} can be reached from other machines, and who reaches the admin API can start pulls: ` +
        'set adminTokenFile or adminTlsClientCaFile, or leave it at 127.0.0.1',
    })
  }
  if (!isLoopbackHost(config.mirrorHost) && config.mirrorTlsClientCaFile === undefined) {
    mistakes.push({
      key: 'mirrorHost',
      message:
        `${config.mirrorHost} can be reached from other machines, and who reaches the mirror endpoint can pull what ` +
        'this node can pull: set mirrorTlsCertFile, mirrorTlsKeyFile and mirrorTlsClientCaFile, so that clients show ' +
        'a certificate, or leave it at 127.0.0.1',
    })
  }
  return mistakes
}
