// How the registry of a rule is reached, in the words of the client of registries.
import { parseRegistry, type ConfigMistake } from '@shoal/oci'
import { registryOptionMistakes, type RegistryOptions } from '@shoal/upstream'
import type { ReplicationRule } from './rule.ts'

/** The registry's name. */
export function hostOf({ url }: Pick<ReplicationRule, 'url'>): string {
  return parseRegistry(new URL(url).host)
}

export function accessOf(rule: ReplicationRule): RegistryOptions {
  const { url, insecureSkipVerify, caFile, certFile, keyFile, username, password, passwordFile, proxy } = rule
  const given = { insecureSkipVerify, caFile, certFile, keyFile, username, password, passwordFile, proxy }
  const access = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as RegistryOptions
  return { ...access, endpoint: url }
}

/** What keeps the registries of the rules from being reached, by the keys that the rules have. */
export async function replicationMistakes(rules: readonly ReplicationRule[]): Promise<ConfigMistake[]> {
  const found = await Promise.all(
    rules.map(async (rule, index) => {
      const mistakes = await registryOptionMistakes({ [hostOf(rule)]: accessOf(rule) })
      return mistakes.map(({ below: [, option] = [], ...mistake }) => ({
        ...mistake,
        key: 'replication',
        below: [index, ...(option === undefined ? [] : [option === 'endpoint' ? 'url' : option])],
      }))
    }),
  )
  return found.flat()
}
