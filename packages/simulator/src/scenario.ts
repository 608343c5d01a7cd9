// What is simulated: the cluster, the image, the trouble, and what must come out. Read from JSON files.
import { readFile } from 'node:fs/promises'
import type { SwarmParameters } from '@shoal/swarm/policy'

/** A rollout of one image to a cluster where nobody has it. Rates are bytes per second, times milliseconds. */
export interface Scenario {
  name: string
  /** One line for people. */
  title: string
  nodes: number
  /** Sizes of the layers. Chunk sizes follow from them by the rule that the daemon has. */
  blobsBytes: number[]
  /** Chunk size instead of the rule's, to study the rule. */
  chunkSizeBytes?: number
  /** Rate of every node, each way. */
  nodeBytesPerSecond: number
  originBytesPerSecond: number
  /** Most that one connection reaches. @default no limit */
  connectionBytesPerSecond?: number
  /** The nodes start evenly over so long. @default 0 */
  startWindowMs?: number
  /** Time of a control message one way. @default 1 */
  controlDelayMs?: number
  /** Time from an address to an open control channel. @default 5 */
  connectMs?: number
  /** Time to check a chunk and write it, before it is told to others. @default 2 */
  keepMs?: number
  /** Bytes that the queue at each end of a link holds; full while the link is. @default 0 */
  queueBytes?: number
  /** Share of the links that carries content, the rest being headers and encryption. @default 1 */
  goodput?: number
  /** Clients read the layers from the front while they arrive. @default true */
  streaming?: boolean
  /** Zones whose borders carry so much each way. */
  zones?: { count: number; borderBytesPerSecond: number }
  /** A share of the nodes whose links have `factor` times the rate. */
  slow?: { share: number; factor: number }
  /** A share of the nodes that fall silent for good at some time after their start. */
  dying?: { share: number; fromMs: number; toMs: number }
  /** Time at which the tracker is lost for good; 0 for a cluster that has none. @default never */
  trackerLostAtMs?: number
  /** Nodes that each node knows from the DHT and its connections before it knows a swarm. @default 48 */
  knownPeers?: number
  /** @default 1 */
  stepMs?: number
  /** Virtual time at which a run is given up. @default 40 times the ideal */
  limitMs?: number
  /** Changes to the policy's parameters. */
  parameters?: Partial<SwarmParameters>
  /** What must come out at most; relative to the ideal (times) or to the image (bytes). */
  targets?: Partial<Record<TargetName, number>>
}

export const TARGET_NAMES = ['p50', 'p99', 'p99.9', 'last', 'egress', 'border'] as const
export type TargetName = (typeof TARGET_NAMES)[number]

const REQUIRED = ['name', 'title', 'nodes', 'blobsBytes', 'nodeBytesPerSecond', 'originBytesPerSecond']
const OPTIONAL = [
  ...[
    'chunkSizeBytes',
    'connectionBytesPerSecond',
    'startWindowMs',
    'controlDelayMs',
    'connectMs',
    'keepMs',
    'goodput',
    'queueBytes',
  ],
  ...['streaming', 'zones', 'slow', 'dying', 'trackerLostAtMs', 'knownPeers', 'stepMs', 'limitMs'],
  ...['parameters', 'targets'],
]

/** A scenario file that cannot be used. */
export class ScenarioError extends Error {
  override readonly name = 'ScenarioError'
}

/** Reads a scenario file. @throws ScenarioError naming what is wrong */
export async function readScenario(path: string): Promise<Scenario> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    throw new ScenarioError(`cannot read scenario ${path}`, { cause: error })
  }
  return parseScenario(text, path)
}

/** @param where what to name in errors */
export function parseScenario(text: string, where: string): Scenario {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new ScenarioError(`${where} is not JSON: ${(error as Error).message}`)
  }
  if (typeof value !== 'object' || value === null) throw new ScenarioError(`${where} must be a JSON object`)
  for (const key of REQUIRED) if (!(key in value)) throw new ScenarioError(`${where}: ${key} is missing`)
  for (const [key, content] of Object.entries(value)) {
    if (!REQUIRED.includes(key) && !OPTIONAL.includes(key)) throw new ScenarioError(`${where}: unknown key ${key}`)
    const isNumber = ![
      'name',
      'title',
      'blobsBytes',
      'streaming',
      'zones',
      'slow',
      'dying',
      'parameters',
      'targets',
    ].includes(key)
    if (isNumber && !(typeof content === 'number' && Number.isFinite(content) && content >= 0))
      throw new ScenarioError(`${where}: ${key} must be a number of at least 0`)
  }
  const scenario = value as Scenario
  if (!Number.isInteger(scenario.nodes) || scenario.nodes < 1 || scenario.nodes > 100_000)
    throw new ScenarioError(`${where}: nodes must be a whole number from 1 to 100000`)
  const sizes: unknown = scenario.blobsBytes
  if (!Array.isArray(sizes) || sizes.length === 0 || !sizes.every((size) => typeof size === 'number' && size > 0))
    throw new ScenarioError(`${where}: blobsBytes must be a list of sizes in bytes`)
  for (const name of Object.keys(scenario.targets ?? {}))
    if (!(TARGET_NAMES as readonly string[]).includes(name))
      throw new ScenarioError(`${where}: unknown target ${name}; there are ${TARGET_NAMES.join(', ')}`)
  return scenario
}

/** Size of the whole image in bytes. */
export function imageBytes(scenario: Scenario): number {
  return scenario.blobsBytes.reduce((sum, size) => sum + size, 0)
}

/** Time of the image over one node's own link, in milliseconds: what nobody can beat. */
export function idealMs(scenario: Scenario): number {
  return (imageBytes(scenario) / scenario.nodeBytesPerSecond) * 1000
}
