// Networks for the lab: every node in a network namespace of its own, joined by a bridge in a hub namespace, each link
// with its own rate each way. Nothing is added to the machine's own network.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { findProgram } from '../support/requirements.ts'

/** A command that builds or changes the lab's network failed. */
export class NetworkError extends Error {
  override name = 'NetworkError'
}

export interface Shaping {
  /** Bits per second each way; none: as fast as the machine. */
  rateBits?: number | undefined
  /** Towards the node, if different. */
  downBits?: number | undefined
  /** From the node, if different. */
  upBits?: number | undefined
  /** Added one way in each direction: twice this is the round trip. Needs netem in the kernel. */
  delayMs?: number | undefined
  /** Share of packets lost each way. Needs netem in the kernel. */
  lossPercent?: number | undefined
}

export interface LinkCounters {
  /** Bytes the node has sent, with all headers, as the hub sees them. */
  sentBytes: number
  /** Bytes that were sent to the node. */
  receivedBytes: number
}

const UNITS: Record<string, number> = { '': 1, bit: 1, kbit: 1e3, mbit: 1e6, gbit: 1e9 }

/**
 * `100mbit` → 100000000.
 *
 * @throws RangeError on anything else than a number with bit, kbit, mbit or gbit
 */
export function parseRate(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kmg]?bit|)$/.exec(text.trim().toLowerCase())
  const unit = UNITS[match?.[2] ?? '?']
  if (match === null || unit === undefined) throw new RangeError(`not a rate such as 100mbit: ${text}`)
  return Number(match[1]) * unit
}

function run(program: string, args: readonly string[], input?: string): string {
  const path = findProgram(program)
  if (path === undefined) throw new NetworkError(`${program} is not installed`)
  const done = spawnSync(path, args, { encoding: 'utf8', input: input ?? '', timeout: 30_000 })
  if (done.status !== 0) {
    const why = done.stderr.trim() || done.error?.message || String(done.signal)
    throw new NetworkError(`${program} ${args.join(' ')}: ${why}${input === undefined ? '' : `\nin:\n${input}`}`)
  }
  return done.stdout
}

/** Runs many `ip` commands in one namespace. */
function ipBatch(namespace: string, lines: readonly string[]): void {
  run('ip', ['-n', namespace, '-batch', '-'], `${lines.join('\n')}\n`)
}

/** One node's place in the network. */
export class Link {
  readonly name: string
  readonly address: string
  readonly namespace: string
  readonly #hub: string
  readonly #port: string
  readonly #delay: boolean

  constructor(name: string, address: string, namespace: string, hub: string, port: string, delay: boolean) {
    this.name = name
    this.address = address
    this.namespace = namespace
    this.#hub = hub
    this.#port = port
    this.#delay = delay
  }

  /** The command line that runs a program at this node's place. Unlike `ip netns exec` it leaves /sys as it is. */
  command(program: readonly string[]): string[] {
    return [findProgram('nsenter') ?? 'nsenter', `--net=/run/netns/${this.namespace}`, '--', ...program]
  }

  /** Replaces the link's rates, delay and loss. */
  shape(shaping: Shaping): void {
    this.#shapeEnd(this.namespace, 'eth0', shaping.upBits ?? shaping.rateBits, shaping)
    this.#shapeEnd(this.#hub, this.#port, shaping.downBits ?? shaping.rateBits, shaping)
  }

  /** Takes the cable out: packets vanish both ways, no connection is told. */
  cut(): void {
    ipBatch(this.#hub, [`link set ${this.#port} down`])
  }

  /** Puts the cable back. */
  mend(): void {
    ipBatch(this.#hub, [`link set ${this.#port} up`])
  }

  /** Drops what comes from another node (one way), or lets it through again. */
  refuse(other: Link, refused = true): void {
    run('ip', [
      'netns',
      'exec',
      this.namespace,
      'iptables',
      refused ? '-A' : '-D',
      'INPUT',
      '-s',
      other.address,
      '-j',
      'DROP',
    ])
  }

  /** Loses this share of the packets that come to the node, or no longer. Unlike the loss of `shape`, without netem. */
  lose(percent: number, losing = true): void {
    const chance = ['-m', 'statistic', '--mode', 'random', '--probability', String(percent / 100)]
    const rule = ['INPUT', '!', '-i', 'lo', ...chance, '-j', 'DROP']
    run('ip', ['netns', 'exec', this.namespace, 'iptables', losing ? '-A' : '-D', ...rule])
  }

  #shapeEnd(namespace: string, device: string, rateBits: number | undefined, shaping: Shaping): void {
    const tc = (...args: string[]): void => void run('tc', ['-n', namespace, 'qdisc', ...args])
    const { delayMs = 0, lossPercent = 0 } = shaping
    const netem = delayMs > 0 || lossPercent > 0
    if (netem && !this.#delay) throw new NetworkError('this kernel has no netem: delay and loss cannot be made here')
    // A bucket below a packet train of 64 KiB would split every one of them.
    const bytesPerMs = (rateBits ?? 0) / 8000
    const burst = Math.round(Math.max(96 * 1024, bytesPerMs * 4))
    const queue = queueBytes(rateBits ?? 0)
    spawnSync(findProgram('tc') ?? 'tc', ['-n', namespace, 'qdisc', 'del', 'dev', device, 'root'], { stdio: 'ignore' })
    if (rateBits !== undefined) {
      const bucket = ['tbf', 'rate', `${rateBits}bit`, 'burst', `${burst}`, 'limit', `${queue}`]
      tc('add', 'dev', device, 'root', 'handle', '1:', ...bucket)
    }
    if (netem) {
      const place = rateBits === undefined ? ['root'] : ['parent', '1:1']
      const delay = ['netem', 'limit', '100000', 'delay', `${delayMs}ms`, 'loss', `${lossPercent}%`]
      tc('add', 'dev', device, ...place, 'handle', '10:', ...delay)
    }
  }
}

/** Whether this kernel can do what Linux does by default. */
export function hasCubic(): boolean {
  return readFileSync('/proc/sys/net/ipv4/tcp_available_congestion_control', 'utf8').split(/\s/).includes('cubic')
}

/**
 * What the machine at large is tuned to must not decide a measurement: cubic is what Linux does by itself. By the routes, as a
 * namespace is refused what the machine does not allow to everybody (tcp_allowed_congestion_control). Trains of packets are longer than
 * by default, also on slow links: one machine carries all of them.
 */
function tuneAsByDefault(namespace: string, address: string): void {
  if (hasCubic()) {
    ipBatch(namespace, [
      `route change 10.77.0.0/16 dev eth0 proto kernel scope link src ${address} congctl cubic`,
      'route change local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1 congctl cubic',
    ])
  }
  spawnSync(findProgram('ip') ?? 'ip', [
    ...['netns', 'exec', namespace, 'sh', '-c', 'echo 16 > /proc/sys/net/ipv4/tcp_min_tso_segs'],
  ])
}

/** Bytes that wait in front of a link of this rate: 50 ms, as in a good switch, and never less than a few packet trains. */
export function queueBytes(rateBits: number): number {
  return Math.round(Math.max(256 * 1024, (rateBits / 8000) * 50))
}

export class LabNetwork {
  /** Whether this kernel can make delay and loss. */
  readonly canDelay: boolean
  readonly #prefix: string
  readonly #hub: string
  readonly #links = new Map<string, { link: Link; port: string }>()

  /** @param prefix - first part of every namespace's name; unique to this run */
  constructor(prefix: string) {
    this.#prefix = prefix
    this.#hub = `${prefix}-hub`
    run('ip', ['netns', 'add', this.#hub])
    ipBatch(this.#hub, ['link set lo up', 'link add br0 type bridge stp_state 0 forward_delay 0', 'link set br0 up'])
    this.canDelay = this.#hasNetem()
  }

  #hasNetem(): boolean {
    const tc = findProgram('tc') ?? 'tc'
    const tried = spawnSync(tc, ['-n', this.#hub, 'qdisc', 'add', 'dev', 'lo', 'root', 'netem', 'delay', '1ms'])
    if (tried.status === 0) run('tc', ['-n', this.#hub, 'qdisc', 'del', 'dev', 'lo', 'root'])
    return tried.status === 0
  }

  /** Adds a node with the next free address of 10.77.0.0/16. */
  add(name: string, shaping: Shaping = {}): Link {
    const number = this.#links.size + 2
    const address = `10.77.${number >> 8}.${number & 255}`
    const namespace = `${this.#prefix}-${name}`
    const port = `v${number}`
    run('ip', ['netns', 'add', namespace])
    ipBatch(this.#hub, [
      `link add ${port} type veth peer name eth0 netns ${namespace}`,
      `link set ${port} master br0`,
      `link set ${port} up`,
    ])
    ipBatch(namespace, ['link set lo up', `addr add ${address}/16 dev eth0`, 'link set eth0 up'])
    tuneAsByDefault(namespace, address)
    const link = new Link(name, address, namespace, this.#hub, port, this.canDelay)
    this.#links.set(name, { link, port })
    link.shape(shaping)
    return link
  }

  /** Bytes over every link so far, by the node's name. */
  counters(): Map<string, LinkCounters> {
    interface Device {
      ifname: string
      stats64: { rx: { bytes: number }; tx: { bytes: number } }
    }
    const devices = JSON.parse(run('ip', ['-n', this.#hub, '-j', '-s', 'link', 'show'])) as Device[]
    const byPort = new Map(devices.map((device) => [device.ifname.split('@')[0], device.stats64]))
    const counters = new Map<string, LinkCounters>()
    for (const [name, { port }] of this.#links) {
      const stats = byPort.get(port)
      // The hub receives what the node sends.
      counters.set(name, { sentBytes: stats?.rx.bytes ?? 0, receivedBytes: stats?.tx.bytes ?? 0 })
    }
    return counters
  }

  /** Ends every process in the namespaces and removes them. Synchronous, so that it works while the process exits. */
  close(): void {
    removeNamespaces(this.#prefix)
  }
}

/** All namespaces that a lab may have made. */
export function listNamespaces(): string[] {
  const done = spawnSync(findProgram('ip') ?? 'ip', ['netns', 'list'], { encoding: 'utf8' })
  return (done.stdout ?? '')
    .split('\n')
    .map((line) => line.split(' ')[0] ?? '')
    .filter((name) => name !== '')
}

/** Kills what runs in the namespaces of that prefix and removes them; gives back how many there were. */
export function removeNamespaces(prefix: string): number {
  const ip = findProgram('ip') ?? 'ip'
  const names = listNamespaces().filter((name) => name.startsWith(`${prefix}-`))
  for (const name of names) {
    const pids = spawnSync(ip, ['netns', 'pids', name], { encoding: 'utf8' }).stdout ?? ''
    for (const pid of pids.split('\n').map(Number)) {
      if (pid <= 1 || pid === process.pid) continue
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // Already gone.
      }
    }
    spawnSync(ip, ['netns', 'del', name])
  }
  return names.length
}
