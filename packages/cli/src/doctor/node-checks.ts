// What can be said of a node without asking anybody: configuration, keys, disk, ports.
import { access, constants, stat, statfs } from 'node:fs/promises'
import { createServer } from 'node:net'
import { dirname } from 'node:path'
import type { AgentConfig } from '@shoal/agent/config'
import { loadConfig, type LoadOptions } from '../config/load.ts'
import { ConfigError, formatMistake } from '../config/mistakes.ts'
import { DAEMONS, daemonSchemas } from '../daemon/modules.ts'
import { showSize } from '../people.ts'
import { fail, ok, skip, warn, type Finding } from './finding.ts'

const LITTLE_SPACE_BYTES = 2 * 1024 ** 3

/** The configuration as the agent would read it; undefined when its keys alone say that it would not start. */
export async function checkConfig(file: string): Promise<{ config: AgentConfig | undefined; findings: Finding[] }> {
  const schemas = await daemonSchemas()
  const checks = await DAEMONS.agent.checks()
  const options: LoadOptions = {
    schema: schemas.agent,
    file,
    environment: process.env,
    otherSchemas: [schemas.tracker, schemas.registry],
  }
  try {
    const { values, warnings } = await loadConfig({
      ...options,
      checks: checks.filter(({ readsFiles }) => readsFiles !== true),
    })
    // Swarm keys are a subject of their own.
    const ofFiles = checks.filter(({ keys, readsFiles }) => readsFiles === true && !keys.includes('swarmKeyFiles'))
    const wrongFiles = await fileFindings({ ...options, checks: ofFiles })
    const findings = wrongFiles.length > 0 ? wrongFiles : [ok('config', `${file} is valid`)]
    findings.push(...warnings.map((text) => warn('config', text)))
    return { config: values as AgentConfig, findings }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return { config: undefined, findings: error.mistakes.map((mistake) => fail('config', formatMistake(mistake))) }
  }
}

/** What the agent would find wrong with the files that its configuration names. */
async function fileFindings(options: LoadOptions): Promise<Finding[]> {
  try {
    await loadConfig(options)
    return []
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return error.mistakes.map((mistake) =>
      mistake.isForbidden === true
        ? warn('config', `${formatMistake(mistake)}: not for this user to read; run this as the agent's user`)
        : fail('config', formatMistake(mistake)),
    )
  }
}

export async function checkKeys({ swarmKeyFiles }: AgentConfig): Promise<Finding[]> {
  const { loadSwarmKeys } = await import('@shoal/network')
  try {
    await loadSwarmKeys(swarmKeyFiles)
    return [ok('swarm key', `${swarmKeyFiles.join(', ')}: readable, and not by everybody`)]
  } catch (error) {
    return [fail('swarm key', (error as Error).message)]
  }
}

/** @param heldBytes - what the store holds, as the agent says; undefined when it does not run */
export async function checkDisk(
  { dataDirectory, storeQuota }: AgentConfig,
  heldBytes: number | undefined,
): Promise<Finding[]> {
  const place = await nearestFolder(dataDirectory)
  const writable = await access(place, constants.W_OK).then(
    () => true,
    () => false,
  )
  if (!writable)
    return [fail('disk', `${place} is not writable for this user: run this as the agent's user, or chown it`)]
  const { bavail, bsize } = await statfs(place)
  const free = bavail * bsize
  const room = `${showSize(free)} free at ${dataDirectory}`
  if (free < LITTLE_SPACE_BYTES) {
    return [warn('disk', `only ${room}: pulls go on without being kept; make room or lower storeQuota`)]
  }
  if (storeQuota === 0) {
    return [warn('disk', `${room}; storeQuota is 0, which is no limit: the store grows until the disk is full; set it`)]
  }
  if (storeQuota <= free) return [ok('disk', room)]
  const quota = `storeQuota is ${showSize(storeQuota)}`
  // It is what the store may have in all, and only the agent knows how much of that it has.
  if (heldBytes === undefined) return [ok('disk', `${room}; ${quota}, less what the store holds`)]
  if (storeQuota - heldBytes <= free) return [ok('disk', `${room}; ${quota}, ${showSize(heldBytes)} of it used`)]
  const advice = 'the disk fills before the store makes room; lower storeQuota'
  return [warn('disk', `only ${room}; ${quota}, ${showSize(heldBytes)} of it used: ${advice}`)]
}

async function nearestFolder(path: string): Promise<string> {
  const there = await stat(path).then(
    () => true,
    () => false,
  )
  return there || dirname(path) === path ? path : await nearestFolder(dirname(path))
}

/** Whether the agent, which does not run, could have its ports. */
export async function checkPorts(config: AgentConfig): Promise<Finding[]> {
  const wanted = [
    ['mirrorPort', config.mirrorHost, config.mirrorPort],
    ['adminPort', config.adminHost, config.adminPort],
    ['p2pPort', config.p2pHost, config.p2pPort],
    ['transferPort', config.transferHost, config.transferPort],
  ] as const
  const findings: Finding[] = []
  for (const [key, host, port] of wanted) {
    if (port === 0) continue
    const code = await tryPort(host, port)
    const advice = `end the program that has it (ss -ltnp 'sport = :${port}') or set ${key}`
    if (code === 'EADDRINUSE') findings.push(fail('ports', `port ${port} is taken: ${advice}`))
    else if (code !== undefined) findings.push(fail('ports', `cannot listen on ${host}:${port} (${code}): see ${key}`))
  }
  return findings.length > 0 ? findings : [ok('ports', 'all ports of the agent are free')]
}

async function tryPort(host: string, port: number): Promise<string | undefined> {
  const server = createServer()
  return await new Promise((resolve) => {
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(undefined)))
  })
}

/** What cannot be looked at without a valid configuration. */
export function withoutConfig(): Finding[] {
  return ['swarm key', 'disk', 'agent', 'trackers', 'pull'].map((subject) =>
    skip(subject, 'not looked at: the configuration comes first'),
  )
}
