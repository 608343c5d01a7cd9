// Where images are copied when they are pushed, and what they are called there.
import { ConfigMistakeError } from '@shoal/oci'
import type { RegistryOptions } from '@shoal/upstream'

/** How the registry at the other end is reached: see the agent's `registries` for the same keys. */
type Access = Pick<
  RegistryOptions,
  'insecureSkipVerify' | 'caFile' | 'certFile' | 'keyFile' | 'username' | 'password' | 'passwordFile' | 'proxy'
>

export interface ReplicationRule extends Access {
  /** What metrics, the log and the queue on the disk call it. @default host and `addPrefix` */
  name?: string
  /** `https://registry.example.com`: the registry that gets copies. */
  url: string
  /** Patterns of repository names. @default all repositories */
  repositories?: string[]
  /** Leading parts of names that are left out there. @default none */
  removePrefix?: string
  /** Put before names there, after that. @default none */
  addPrefix?: string
}

/** Unique names of all rules, in their order. @throws ConfigMistakeError when two cannot be told apart */
export function ruleNames(rules: readonly ReplicationRule[]): string[] {
  const names = rules.map(({ name, url, addPrefix }) => name ?? [new URL(url).host, addPrefix ?? []].flat().join('/'))
  const twice = names.find((name, at) => names.indexOf(name) !== at)
  if (twice !== undefined) {
    throw new ConfigMistakeError('replication', `must not have two rules called ${twice}; give each a name of its own`)
  }
  return names
}

/** What a repository is called at the target: `team-a/web` with `team-a` removed and `site-1` added is `site-1/web`. */
export function nameAtTarget({ removePrefix, addPrefix }: ReplicationRule, repository: string): string {
  const removed = removePrefix === undefined ? undefined : `${removePrefix}/`
  const rest = removed !== undefined && repository.startsWith(removed) ? repository.slice(removed.length) : repository
  return addPrefix === undefined ? rest : `${addPrefix}/${rest}`
}
