// What a node's agent, its trackers and its mirror endpoint answer.
import { connect } from 'node:net'
import type { AgentConfig } from '@shoal/agent/config'
import { digestAlgorithm, digestOf, isDigest, MANIFEST_MEDIA_TYPES, type ImageReference } from '@shoal/oci'
import { request } from 'undici'
import { AdminClient, type AgentStatus } from '../admin-client.ts'
import type { ApiOptions } from '../api-client.ts'
import { CommandError, UsageError } from '../exit-codes.ts'
import { plainText, showDuration } from '../people.ts'
import { fail, ok, skip, warn, type Finding } from './finding.ts'

const ANSWER_LIMIT_MS = 5000
/** Manifests that come from an origin take as long as the agent allows. */
const PULL_LIMIT_MS = 30_000
/** Tokens and certificates go wrong from about here. */
const CLOCK_TOLERANCE_MS = 30_000
const MAX_MANIFEST_BYTES = 4 * 1024 * 1024

/**
 * The agent's status, or undefined when it does not run.
 * @param access - how its API is entered; what is not given follows from the agent's own configuration
 */
export async function checkAgent(
  config: AgentConfig,
  access: ApiOptions,
): Promise<{ status: AgentStatus | undefined; findings: Finding[] }> {
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
    const advice = 'Start it: shoal agent --config FILE, or systemctl start shoal-agent.'
    return { status: undefined, findings: [fail('agent', `${plainText(error.message)} ${advice}`)] }
  }
  try {
    await client.ready()
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    return { status, findings: [fail('agent', `runs but is not ready: ${plainText(error.message)}; see its log`)] }
  }
  const peers = `${status.peersConnected} peers connected`
  return { status, findings: [ok('agent', `ready, up for ${showDuration(status.uptimeMs)}, ${peers}`)] }
}

/** Each tracker by its port, by what the agent says of it, and by its clock. */
export async function checkTrackers(
  { trackers }: AgentConfig,
  status: AgentStatus | undefined,
  httpPort: number,
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
      return [finding, await checkClock(place.host, httpPort)]
    }),
  )
  return found.flat()
}

async function checkClock(host: string, port: number): Promise<Finding> {
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${port}/healthz`
  try {
    const before = Date.now()
    const { headers, body } = await request(url, limits(ANSWER_LIMIT_MS))
    await body.dump()
    const theirs = Date.parse(String(headers['date']))
    if (Number.isNaN(theirs)) return skip('clock', `${url} does not say what time it is`)
    const ahead = Math.round((before + Date.now()) / 2 - theirs)
    if (Math.abs(ahead) <= CLOCK_TOLERANCE_MS) return ok('clock', `agrees with that of ${host}`)
    const by = `${showDuration(Math.abs(ahead))} ${ahead > 0 ? 'ahead of' : 'behind'} that of ${host}`
    return warn('clock', `${by}: logins and certificates may be refused; let chrony or systemd-timesyncd set both`)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    return skip('clock', `not compared: ${url} does not answer (${code ?? message}); see --tracker-http-port`)
  }
}

/** The way of a pull: the mirror endpoint as a runtime sees it, then a manifest if one is named. */
export async function checkPull(config: AgentConfig, image: ImageReference | undefined): Promise<Finding[]> {
  const base = `http://${reachable(config.mirrorHost)}:${config.mirrorPort}/v2/`
  try {
    const { statusCode, headers, body } = await request(base, limits(ANSWER_LIMIT_MS))
    await body.dump()
    // With 401 an agent sends clients to its token endpoint, which has a token for everyone.
    const answers = statusCode === 200 || (statusCode === 401 && 'docker-distribution-api-version' in headers)
    if (!answers) return [fail('pull', `${base} answers ${statusCode}: is it another program's port?`)]
    if (image === undefined) return [ok('pull', `${base} answers; name an image with --image to try a pull`)]
    return [await pullManifest(base, image)]
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    return [fail('pull', `${base} does not answer (${code ?? message}): runtimes go to the origin by themselves`)]
  }
}

async function pullManifest(base: string, { registry, repository, tag, digest }: ImageReference): Promise<Finding> {
  const reference = digest ?? tag ?? 'latest'
  const url = `${base}${repository}/manifests/${reference}?ns=${encodeURIComponent(registry)}`
  const began = performance.now()
  const accept = { accept: MANIFEST_MEDIA_TYPES.join(', ') }
  const { statusCode, headers, body } = await request(url, { ...limits(PULL_LIMIT_MS), headers: accept })
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

function limits(limitMs: number): { signal: AbortSignal } {
  return { signal: AbortSignal.timeout(limitMs) }
}
