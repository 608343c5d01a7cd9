// Addresses of nodes in a configuration, read as the daemon will read them.
import type { ConfigMistake } from '@shoal/oci'

/** What the daemon would refuse of these keys, each a list of addresses. */
export async function endpointMistakes(
  values: Record<string, unknown>,
  keys: readonly string[],
): Promise<ConfigMistake[]> {
  const { parseEndpoint } = await import('@shoal/network/addresses')
  return keys.flatMap((key) =>
    ((values[key] ?? []) as string[]).flatMap((address) => {
      try {
        parseEndpoint(address)
        return []
      } catch (error) {
        return [{ key, message: (error as Error).message }]
      }
    }),
  )
}
