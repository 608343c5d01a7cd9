// Two servers of one daemon cannot have the same port, which would else be found by the second that starts.
import { isIP } from 'node:net'
import type { ConfigCheck } from '@shoal/oci'

const WILDCARDS = ['0.0.0.0', '::']

/** Whether who listens on one address is in the way of who listens on the other, as far as their texts tell. */
function meet(host: string, other: string): boolean {
  const isForAll = [host, other].some((one) => WILDCARDS.includes(one))
  return host === other || (isForAll && isIP(host) === isIP(other))
}

/** Looks whether servers get the same port. `names` are what their keys begin with: `mirror` for `mirrorPort`. */
export function portCheck(names: readonly string[]): ConfigCheck<Record<string, unknown>> {
  return {
    keys: names.flatMap((name) => [`${name}Host`, `${name}Port`]),
    find: (values) =>
      names.flatMap((name, at) => {
        const port = values[`${name}Port`]
        const hostOf = (other: string) => values[`${other}Host`] as string
        const taken = names
          .slice(0, at)
          .find((before) => port !== 0 && values[`${before}Port`] === port && meet(hostOf(before), hostOf(name)))
        const message = `is ${String(port)}, and so is ${taken}Port: give each a port of its own`
        return taken === undefined ? [] : [{ key: `${name}Port`, message }]
      }),
  }
}
