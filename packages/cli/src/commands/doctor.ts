// `shoal doctor`: is everything on this node as it should be, and if not, what to do.
import { InvalidReferenceError, parseReference, type ImageReference } from '@shoal/oci'
import type { AgentConfig } from '@shoal/agent/config'
import type { ApiOptions } from '../api-client.ts'
import { ok, skip, warn, type Finding } from '../doctor/finding.ts'
import { checkAgent, checkPull, checkTrackers, mirrorUrl } from '../doctor/network-checks.ts'
import { checkConfig, checkDisk, checkKeys, checkPorts, withoutConfig } from '../doctor/node-checks.ts'
import { CommandError, EXIT_FAILED, EXIT_OK, UsageError } from '../exit-codes.ts'
import type { Output } from '../program.ts'
import { COMMON_REGISTRIES, isInstalled, RUNTIMES } from '../runtimes/index.ts'

export interface DoctorOptions extends ApiOptions {
  config: string
  image?: string
  trackerHttpPort: string
  json?: boolean
  root: string
}

const DEFAULT_MIRROR = 'http://127.0.0.1:7700'
const SIGNS = { ok: 'ok  ', warn: 'WARN', fail: 'FAIL', skip: '–   ' } as const

/** Fails only for what keeps the node from working; what could be better is a warning. */
export async function doctorCommand(options: DoctorOptions, output: Output): Promise<number> {
  const image = options.image === undefined ? undefined : readImage(options.image)
  const trackerHttpPort = Number(options.trackerHttpPort)
  if (!Number.isInteger(trackerHttpPort) || trackerHttpPort < 1 || trackerHttpPort > 65_535) {
    throw new UsageError('--tracker-http-port must be a port from 1 to 65535')
  }
  const { config, findings } = await checkConfig(options.config)
  if (config === undefined) findings.push(...withoutConfig())
  else findings.push(...(await checkNode(config, options, image, trackerHttpPort)))
  findings.push(...(await checkRuntimes(config, options.root)))

  const width = Math.max(...findings.map(({ subject }) => subject.length))
  const line = ({ subject, verdict, message }: Finding): string =>
    `${SIGNS[verdict]}  ${subject.padEnd(width)}  ${message}\n`
  output.out(options.json === true ? `${JSON.stringify(findings, null, 2)}\n` : findings.map(line).join(''))
  return findings.some(({ verdict }) => verdict === 'fail') ? EXIT_FAILED : EXIT_OK
}

async function checkNode(
  config: AgentConfig,
  { tokenFile, tlsCa, tlsCert, tlsKey }: ApiOptions,
  image: ImageReference | undefined,
  trackerHttpPort: number,
): Promise<Finding[]> {
  const access = {
    ...(tokenFile === undefined ? {} : { tokenFile }),
    ...(tlsCa === undefined ? {} : { tlsCa }),
    ...(tlsCert === undefined ? {} : { tlsCert }),
    ...(tlsKey === undefined ? {} : { tlsKey }),
  }
  const agent = await checkAgent(config, access)
  const disk = await checkDisk(config, agent.status?.store.storedBytes)
  const findings = [...(await checkKeys(config)), ...disk, ...agent.findings]
  if (agent.isDown) findings.push(...(await checkPorts(config)))
  findings.push(...(await checkTrackers(config, agent.status, trackerHttpPort, access)))
  // One that does not tell its status to everybody serves pulls all the same.
  findings.push(...(agent.isDown ? [skip('pull', 'not tried: no agent')] : await checkPull(config, access, image)))
  return findings
}

async function checkRuntimes(config: AgentConfig | undefined, root: string): Promise<Finding[]> {
  const mirror = config === undefined ? new URL(DEFAULT_MIRROR) : mirrorUrl(config)
  const wish = { root, mirror, registries: COMMON_REGISTRIES }
  const flag = mirror.origin === DEFAULT_MIRROR ? '' : ` --mirror ${mirror.origin}`
  const otherScheme = mirror.protocol === 'http:' ? 'https:' : 'http:'
  // As `shoal configure` writes it by itself.
  const hosts = [mirror.host, mirror.host.replace(/^localhost\b/, '127.0.0.1')]
  const findings: Finding[] = []
  for (const runtime of RUNTIMES) {
    if (!(await isInstalled(runtime))) continue
    const advice = `run: shoal configure ${runtime.name}${flag}`
    try {
      const { changes, obstacle } = await runtime.plan(wish)
      const asWished = changes.every(({ before, after }) => before === after)
      // A file that names the agent otherwise, as with other registries, is somebody's decision.
      const names = changes.some(({ before = '' }) =>
        hosts.some((host) => before.includes(host) && !before.includes(`${otherScheme}//${host}`)),
      )
      if (!asWished && !names) {
        findings.push(warn('runtimes', `${runtime.name} does not pull through the agent; ${advice}`))
      } else if (obstacle !== undefined) findings.push(warn('runtimes', `${runtime.name}: ${obstacle}`))
      else findings.push(ok('runtimes', `${runtime.name} pulls through the agent`))
    } catch (error) {
      if (!(error instanceof CommandError)) throw error
      findings.push(
        warn('runtimes', `${runtime.name}: ${error.message.split('. ', 1)[0] ?? ''}; see: ${advice} --dry-run`),
      )
    }
  }
  if (findings.length === 0) findings.push(warn('runtimes', 'no container runtime is installed here'))
  return findings
}

function readImage(text: string): ImageReference {
  try {
    return parseReference(text)
  } catch (error) {
    if (error instanceof InvalidReferenceError) throw new UsageError(error.message)
    throw error
  }
}
