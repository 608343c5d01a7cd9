// What a node's agent, its trackers and its mirror endpoint answer.
import { connect } from 'node:net'
import type { AgentConfig } from '@shoal/agent/config'
import { digestAlgorithm, digestOf, isDigest, MANIFEST_MEDIA_TYPES, type ImageReference } from '@shoal/oci'
import { request, type Dispatcher } from 'undici'
import { AdminClient, type AgentStatus } from '../admin-client.ts'
import { CERTIFICATES, tlsDispatcher, type ApiOptions } from '../api-client.ts'
import { CommandError, UsageError } from '../exit-codes.ts'
import { plainText, showDuration } from '../people.ts'
import { fail, ok, skip, warn, type Finding } from './finding.ts'

const ANSWER_LIMIT_MS = 5000
/** Manifests that come from an origin take as long as the agent allows. */
const PULL_LIMIT_MS = 30_000
/** Tokens and certificates go wrong from about here. */
const CLOCK_TOLERANCE_MS = 30_000
const MAX_MANIFEST_BYTES = 4 * 1024 * 1024

export interface AgentCheck {
  /** Undefined when it does not run, or does not let us in. */
  status: AgentStatus | undefined
  /** Nothing listens where it should. */
  isDown: boolean
  findings: Finding[]
}

/** @param access - how its API is entered; what is not given follows from the agent's own configuration */
export async function checkAgent(config: AgentConfig, access: ApiOptions): Promise<AgentCheck> {
  const { adminTokenFile, adminTlsCertFile } = config
  const admin = `${adminTlsCertFile === undefined ? 'http' : 'https'}://${reachable(config.adminHost)}:${config.adminPort}`
  const tokenFile = access.tokenFile ?? adminTokenFile
  // A certificate that nobody else has signed is its own authority.
  const tlsCa = access.tlsCa ?? adminTlsCertFile
  const client = new AdminClient({
    ...access,
    admin,
    ...(tokenFile === undefined ? {} : { tokenFile }),
    ...(tlsCa === undefined ? {} : { tlsCa }),
  })
  let status: AgentStatus
  try {
    status = await client.status()
  } catch (error) {
    if (!(error instanceof CommandError) && !(error instanceof UsageError)) throw error
    const isDown = codeOf(error.cause) === 'ECONNREFUSED'
    return { status: undefined, isDown, findings: [fail('agent', withoutStatus(config, error, isDown))] }
  }
  try {
    await client.ready()
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    const finding = fail('agent', `runs but is not ready: ${plainText(error.message)}; see its log`)
    return { status, isDown: false, findings: [finding] }
  }
  const peers = `${status.peersConnected} peers connected`
  return { status, isDown: false, findings: [ok('agent', `ready, up for ${showDuration(status.uptimeMs)}, ${peers}`)] }
}

function withoutStatus({ adminPort, adminTlsCertFile }: AgentConfig, error: Error, isDown: boolean): string {
  const text = plainText(error.message)
  if (isDown) return `${text} Start it: shoal agent --config FILE, or systemctl start shoal-agent.`
  if (error instanceof UsageError) return text
  // Who answers says what it wants, and may be another program. Why a connection fails must be guessed.
  if (error.cause === undefined) return `${text} (who has the port: ss -ltnp 'sport = :${adminPort}')`
  const advice = adminTlsCertFile === undefined ? '; see its log' : CERTIFICATES
  return `the agent at port ${adminPort} cannot be talked to (${codeOf(error.cause)})${advice}`
}

/**
 * Each tracker by its port, by what the agent says of it, and by its clock.
 * @param access - the authority and the client certificate, where a tracker's HTTP has TLS
 */
export async function checkTrackers(
  { trackers }: AgentConfig,
  status: AgentStatus | undefined,
  httpPort: number,
  access: ApiOptions,
): Promise<Finding[]> {
  if (trackers.length === 0) {
    return [warn('trackers', 'none configured: a rollout to many nodes costs the origin more; set trackers')]
  }
  const found = await Promise.all(
    trackers.map(async (address) => {
      const place = placeOf(address)
      if (place === undefined) return [skip('trackers', `${address} cannot be looked at from here`)]
      const failure = await tryConnect(place.host, place.port)
      if (failure !== undefined) {
        const advice = 'check that the tracker runs, its name, and the firewall'
        return [fail('trackers', `${address} cannot be reached (${failure}): ${advice}`)]
      }
      const known = status?.trackers.find((tracker) => tracker.address === address)
      const finding =
        known?.connected === false
          ? fail('trackers', `${address} is reachable, but refuses the agent: have both the same swarm key?`)
          : ok('trackers', `${address} is ${known === undefined ? 'reachable' : 'connected'}`)
      return [finding, await checkClock(place.host, httpPort, access)]
    }),
  )
  return found.flat()
}

async function checkClock(host: string, port: number, { tlsCa, tlsCert, tlsKey }: ApiOptions): Promise<Finding> {
  const place = `${reachable(host)}:${port}/healthz`
  try {
    return await compareClock(host, `http://${place}`)
  } catch (plainError) {
    try {
      // Whether the tracker has TLS is written in its own configuration only.
      return await compareClock(host, `https://${place}`, await tlsDispatcher({ tlsCa, tlsCert, tlsKey }))
    } catch (error) {
      const answers = `http:// (${codeOf(plainError)}) nor https:// (${codeOf(error)})`
      const advice = 'see --tracker-http-port, and --tls-ca for https'
      return skip('clock', `not compared: ${place} answers neither ${answers}; ${advice}`)
    }
  }
}

async function compareClock(host: string, url: string, dispatcher?: Dispatcher): Promise<Finding> {
  const before = Date.now()
  const { headers, body } = await request(url, limits(ANSWER_LIMIT_MS, dispatcher))
  await body.dump()
  const theirs = Date.parse(String(headers['date']))
  if (Number.isNaN(theirs)) return skip('clock', `${url} does not say what time it is`)
  const ahead = Math.round((before + Date.now()) / 2 - theirs)
  if (Math.abs(ahead) <= CLOCK_TOLERANCE_MS) return ok('clock', `agrees with that of ${host}`)
  const by = `${showDuration(Math.abs(ahead))} ${ahead > 0 ? 'ahead of' : 'behind'} that of ${host}`
  return warn('clock', `${by}: logins and certificates may be refused; let chrony or systemd-timesyncd set both`)
}

/** Where the runtimes of this node reach the agent. */
export function mirrorUrl({ mirrorHost, mirrorPort, mirrorTlsCertFile }: AgentConfig): URL {
  return new URL(`${mirrorTlsCertFile === undefined ? 'http' : 'https'}://${reachable(mirrorHost)}:${mirrorPort}`)
}

/**
 * The way of a pull: the mirror endpoint as a runtime sees it, then a manifest if one is named.
 * @param access - the authority and the client certificate, if the endpoint has TLS
 */
export async function checkPull(
  config: AgentConfig,
  access: ApiOptions,
  image: ImageReference | undefined,
): Promise<Finding[]> {
  const { href: base, protocol } = new URL('v2/', mirrorUrl(config))
  const isTls = protocol === 'https:'
  try {
    const tlsCa = access.tlsCa ?? config.mirrorTlsCertFile
    const dispatcher = isTls ? await tlsDispatcher({ ...access, tlsCa }) : undefined
    const { statusCode, headers, body } = await request(base, limits(ANSWER_LIMIT_MS, dispatcher))
    await body.dump()
    // With 401 an agent sends clients to its token endpoint, which has a token for everyone.
    const answers = statusCode === 200 || (statusCode === 401 && 'docker-distribution-api-version' in headers)
    if (!answers) return [fail('pull', `${base} answers ${statusCode}: is it another program's port?`)]
    if (image === undefined) return [ok('pull', `${base} answers; name an image with --image to try a pull`)]
    return [await pullManifest(base, image, dispatcher)]
  } catch (error) {
    if (error instanceof UsageError) return [fail('pull', error.message)]
    const advice = isTls && codeOf(error) !== 'ECONNREFUSED' ? CERTIFICATES : ''
    const consequence = 'runtimes go to the origin by themselves'
    return [fail('pull', `${base} does not answer (${codeOf(error)}): ${consequence}${advice}`)]
  }
}

async function pullManifest(
  base: string,
  { registry, repository, tag, digest }: ImageReference,
  dispatcher: Dispatcher | undefined,
): Promise<Finding> {
  const reference = digest ?? tag ?? 'latest'
  const url = `${base}${repository}/manifests/${reference}?ns=${encodeURIComponent(registry)}`
  const began = performance.now()
  const accept = { accept: MANIFEST_MEDIA_TYPES.join(', ') }
  const { statusCode, headers, body } = await request(url, { ...limits(PULL_LIMIT_MS, dispatcher), headers: accept })
  const pieces: Buffer[] = []
  let length = 0
  for await (const piece of body as AsyncIterable<Buffer>) {
    pieces.push(piece)
    length += piece.length
    if (length > MAX_MANIFEST_BYTES) return fail('pull', `${url} sends more than a manifest`)
  }
  const bytes = Buffer.concat(pieces)
  const name = `${registry}/${repository}:${reference}`
  if (statusCode !== 200) {
    return fail('pull', `${name} is answered ${statusCode}: ${plainText(bytes.toString('utf8')).slice(0, 300)}`)
  }
  const said = headers['docker-content-digest']
  if (!isDigest(said) || digestOf(bytes, digestAlgorithm(said)) !== said) {
    return fail('pull', `${name} comes with another digest than it is said to have: something between changes it`)
  }
  const source = headers['x-shoal-source']
  return ok('pull', `${name} in ${showDuration(performance.now() - began)}, from ${plainText(String(source))}`)
}

/** Host and port of `host:port` or of a multiaddr. */
export function placeOf(address: string): { host: string; port: number } | undefined {
  const multiaddr = /^\/(?:ip4|ip6|dns|dns4|dns6)\/([^/]+)\/tcp\/(\d+)/.exec(address)
  const plain = /^(?:\[([^\]]+)\]|([^:/]+)):(\d+)$/.exec(address)
  const host = multiaddr?.[1] ?? plain?.[1] ?? plain?.[2]
  const port = multiaddr?.[2] ?? plain?.[3]
  return host === undefined || port === undefined ? undefined : { host, port: Number(port) }
}

async function tryConnect(host: string, port: number): Promise<string | undefined> {
  return await new Promise((resolve) => {
    const socket = connect({ host, port, timeout: ANSWER_LIMIT_MS })
    const end = (reason: string | undefined): void => {
      socket.destroy()
      resolve(reason)
    }
    socket.once('connect', () => end(undefined))
    socket.once('timeout', () => end('no answer'))
    socket.once('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message))
  })
}

/** An address that all interfaces are bound to is reached at this node itself. */
function reachable(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1'
  if (host === '::') return '[::1]'
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host
}

function limits(limitMs: number, dispatcher?: Dispatcher): { signal: AbortSignal; dispatcher?: Dispatcher } {
  return { signal: AbortSignal.timeout(limitMs), ...(dispatcher === undefined ? {} : { dispatcher }) }
}

function codeOf(error: unknown): string | undefined {
  const { code, message } = (error ?? {}) as Partial<NodeJS.ErrnoException>
  return typeof code === 'string' ? code : message
}
