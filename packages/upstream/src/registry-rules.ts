// Which registries an operator lets clients name.
import { parseRegistry } from '@shoal/oci'
import { plainHost } from './addresses.ts'
import { InvalidUpstreamOptionError, normalHost } from './options.ts'

interface Rule {
  text: string
  /** Whether subdomains of `host` are meant instead of `host` itself. */
  subdomains: boolean
  /** `*` is every host. */
  host: string
  /** `*` is every port, undefined is none written. */
  port: string | undefined
}

/** Allow and deny rules; a deny rule wins. */
export class RegistryRules {
  readonly #allow: Rule[]
  readonly #deny: Rule[]

  /** @throws InvalidUpstreamOptionError */
  constructor(allow: readonly string[], deny: readonly string[]) {
    this.#allow = allow.map((text) => parseRule(text, 'allowRegistries'))
    this.#deny = deny.map((text) => {
      const rule = parseRule(text, 'denyRegistries')
      return rule.subdomains ? rule : { ...rule, host: plainHost(rule.host) }
    })
  }

  /** Why the registry may not be asked, at the URL that follows from its name; undefined if it may. */
  refusal(registry: string, url?: URL): string | undefined {
    const denied = this.#denial(...split(registry)) ?? (url && this.denial(url))
    if (denied !== undefined) return denied
    const allowed = this.#allow.some((rule) => matches(rule, registry))
    return allowed ? undefined : `no rule in allowRegistries covers it; add ${JSON.stringify(registry)} there`
  }

  /** Whether an allow rule covers the registry that does not cover all of them. */
  names(registry: string): boolean {
    return this.#allow.some((rule) => rule.host !== '*' && matches(rule, registry))
  }

  /** Why a URL may not be asked even as the target of a redirect; undefined if it may. */
  denial({ hostname, port, protocol }: URL): string | undefined {
    return this.#denial(hostname, port === '' ? (protocol === 'https:' ? '443' : '80') : port)
  }

  /** However the host is written: what counts is who would be asked. */
  #denial(host: string, port: string | undefined): string | undefined {
    const plain = plainHost(host)
    // Docker Hub is one registry by all of its names.
    const hosts = [plain, normalHost(plain)]
    const found = this.#deny.find(
      (rule) =>
        hosts.some((one) => matchesHost(rule, one)) &&
        (rule.port === undefined || rule.port === '*' || rule.port === port),
    )
    return found && `the rule ${JSON.stringify(found.text)} in denyRegistries covers it`
  }
}

/** As allow rules mean it: one without a port is for the name without a port. */
function matches(rule: Rule, registry: string): boolean {
  const [host, port] = split(registry)
  return matchesHost(rule, host) && (rule.host === '*' || rule.port === '*' || rule.port === port)
}

function matchesHost(rule: Rule, host: string): boolean {
  if (rule.host === '*') return true
  return rule.subdomains ? host.endsWith(`.${rule.host}`) : host === rule.host
}

function split(registry: string): [host: string, port: string | undefined] {
  const match = /^(.*?)(?::([0-9]+|\*))?$/.exec(
    registry.startsWith('[') ? registry.slice(registry.indexOf(']')) : registry,
  )
  const host = registry.startsWith('[') ? registry.slice(0, registry.indexOf(']') + 1) : (match?.[1] ?? registry)
  return [host.replace(/\.$/, ''), match?.[2]]
}

function parseRule(text: string, where: string): Rule {
  if (text === '*') return { text, subdomains: false, host: '*', port: '*' }
  const subdomains = text.startsWith('*.')
  const [host, port] = split((subdomains ? text.slice(2) : text).toLowerCase())
  try {
    // In normal form, so that a rule for registry-1.docker.io means docker.io.
    return { text, subdomains, host: subdomains ? host : parseRegistry(host), port }
  } catch (cause) {
    const form = 'a host with an optional port, *.domain or *'
    throw new InvalidUpstreamOptionError(`${where}: ${JSON.stringify(text)} is not ${form}`, { cause })
  }
}
