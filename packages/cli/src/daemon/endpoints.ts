// Addresses of nodes in a configuration, read as the daemon will read them.
import type { ConfigCheck } from '@shoal/oci'

/** Looks whether the daemon would refuse an address of this key, which is a list of them. */
export function endpointCheck(key: string): ConfigCheck<Record<string, unknown>> {
  return {
    keys: [key],
    find: async ({ [key]: addresses }) => {
      const { parseEndpoint } = await import('@shoal/network/addresses')
      return ((addresses ?? []) as string[]).flatMap((address, index) => {
        try {
          parseEndpoint(address)
          return []
        } catch (error) {
          return [{ key, below: [index], message: (error as Error).message }]
        }
      })
    },
  }
}
