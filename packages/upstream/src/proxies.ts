// Which requests go through an HTTP proxy. The rules of NO_PROXY are those of Go's `http.ProxyFromEnvironment`, which
// is what operators know from docker and containerd: CIDR blocks work, loopback is never proxied.
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import { isLoopbackHost } from './addresses.ts'
import { InvalidUpstreamOptionError, type ProxyOptions } from './options.ts'

const DEFAULT_PORTS: Readonly<Record<string, string>> = { 'http:': '80', 'https:': '443' }

/** Reads the proxy variables, in either case. */
export function proxyOptionsFromEnvironment(environment: NodeJS.ProcessEnv): ProxyOptions {
  const read = (name: string): string | undefined => environment[name] || environment[name.toLowerCase()] || undefined
  const options: ProxyOptions = {}
  const httpProxy = read('HTTP_PROXY')
  const httpsProxy = read('HTTPS_PROXY')
  const noProxy = read('NO_PROXY')
  if (httpProxy !== undefined) options.httpProxy = httpProxy
  if (httpsProxy !== undefined) options.httpsProxy = httpsProxy
  if (noProxy !== undefined) options.noProxy = noProxy
  return options
}

export class ProxyRules {
  readonly #http: string | undefined
  readonly #https: string | undefined
  readonly #exceptions: ((host: string, port: string) => boolean)[]

  /** @throws InvalidUpstreamOptionError */
  constructor(options: ProxyOptions) {
    this.#http = parseProxy(options.httpProxy, 'HTTP_PROXY')
    this.#https = parseProxy(options.httpsProxy, 'HTTPS_PROXY')
    this.#exceptions = (options.noProxy ?? '').split(/[\s,]+/).flatMap((entry) => parseException(entry.toLowerCase()))
  }

  /** The proxy for a URL; undefined: none. */
  proxyFor(url: URL): string | undefined {
    const host = url.hostname.replace(/^\[|\]$/g, '').replace(/\.$/, '')
    if (isLoopbackHost(url.hostname)) return undefined
    const port = url.port === '' ? (DEFAULT_PORTS[url.protocol] ?? '') : url.port
    if (this.#exceptions.some((matches) => matches(host, port))) return undefined
    return url.protocol === 'https:' ? this.#https : this.#http
  }
}

function parseProxy(text: string | undefined, name: string): string | undefined {
  if (text === undefined || text === '') return undefined
  const url = text.includes('://') ? text : `http://${text}`
  if (!URL.canParse(url) || !/^https?:/.test(url)) {
    throw new InvalidUpstreamOptionError(`${name} must be the URL of an HTTP proxy, such as http://proxy:3128`)
  }
  return url
}

function parseException(entry: string): ((host: string, port: string) => boolean)[] {
  if (entry === '') return []
  if (entry === '*') return [() => true]
  if (ipaddr.isValidCIDR(entry)) {
    const block = ipaddr.parseCIDR(entry)
    return [
      (host) => {
        if (isIP(host) === 0) return false
        const ip = ipaddr.process(host)
        return ip.kind() === block[0].kind() && ip.match(block)
      },
    ]
  }
  const [, name = '', port] = /^(.*?)(?::([0-9]+))?$/.exec(isIP(entry) === 0 ? entry : `[${entry}]`) ?? []
  const bare = name.replace(/^\*?\.|^\[|\]$/g, '')
  const onlyBelow = name.startsWith('.') || name.startsWith('*.')
  return [
    (host, wanted) =>
      (port === undefined || port === wanted) && ((host === bare && !onlyBelow) || host.endsWith(`.${bare}`)),
  ]
}
