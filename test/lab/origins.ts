// The origins a lab can have: Debian's registry, our own, and the one that misbehaves on command. Each tells how many
// bytes of content have left it, in its own words.
import { join } from 'node:path'
import { readFileSync, writeFileSync } from 'node:fs'
import type { Fault, OriginCounters } from '../support/faulty-origin.ts'
import { findProgram } from '../support/requirements.ts'
import { shoalCommand, writeConfig } from '../support/shoal.ts'
import type { Link } from './network.ts'
import { LabNode } from './node.ts'

export type OriginKind = 'docker-registry' | 'shoal' | 'faulty' | 'generated'

export abstract class Origin extends LabNode {
  abstract readonly port: number

  /** `host:port`, as in image names. */
  get host(): string {
    return `${this.address}:${this.port}`
  }

  /** Bytes of blobs and manifests that it has sent to others. */
  abstract contentBytesSent(): Promise<number>
}

class DockerRegistry extends Origin {
  readonly port = 5000

  constructor(link: Link, folder: string) {
    const config = join(folder, 'registry.yml')
    writeFileSync(
      config,
      [
        'version: 0.1',
        `storage: {filesystem: {rootdirectory: ${join(folder, 'data')}}, delete: {enabled: true}}`,
        'http: {addr: "0.0.0.0:5000", relativeurls: true}',
        'log: {level: error, accesslog: {disabled: false}}',
        '',
      ].join('\n'),
    )
    const program = findProgram('docker-registry') ?? 'docker-registry'
    super({ link, folder, command: [program, 'serve', config], readyUrl: 'http://127.0.0.1:5000/v2/' })
  }

  override async contentBytesSent(): Promise<number> {
    // Combined log format: address - - [time] "GET /v2/… HTTP/1.1" status bytes "referer" "agent"
    const line = /^(\S+) - - \[[^\]]*\] "GET \/v2\/\S+\/(?:blobs|manifests)\/\S+ [^"]*" \d+ (\d+)/gm
    let sum = 0
    for (const [, client, bytes] of readFileSync(this.logFile, 'utf8').matchAll(line)) {
      if (client !== '127.0.0.1') sum += Number(bytes)
    }
    return sum
  }
}

class ShoalOrigin extends Origin {
  readonly port = 9000

  constructor(link: Link, folder: string) {
    const config = writeConfig(join(folder, 'registry.yaml'), { dataDirectory: join(folder, 'data') })
    super({
      link,
      folder,
      command: shoalCommand('registry', '--config', config),
      readyUrl: 'http://127.0.0.1:9000/readyz',
      metricsUrl: 'http://127.0.0.1:9000/metrics',
    })
  }

  override contentBytesSent(): Promise<number> {
    return this.metric('shoal_origin_bytes_sent_total')
  }
}

/** Port on which the origin that misbehaves speaks TLS, where it was given certificates. */
export const FAULTY_TLS_PORT = 5443

/** See support/faulty-origin.ts for what it can do wrong. What was pushed is in `content` of its folder. */
export class FaultyOrigin extends Origin {
  readonly port = 5000

  /** @param certificates - folder with server.pem, server.key and expired.pem; none: no TLS */
  constructor(link: Link, folder: string, certificates?: string) {
    const program = join(import.meta.dirname, '../support/faulty-origin.ts')
    const node = [process.execPath, '--disable-warning=ExperimentalWarning']
    const tls = certificates === undefined ? [] : ['--tls-port', String(FAULTY_TLS_PORT), '--tls-folder', certificates]
    const kept = ['--folder', join(folder, 'content')]
    super({
      link,
      folder,
      command: [...node, program, '--host', '0.0.0.0', '--port', '5000', '--control', '5099', ...kept, ...tls],
      readyUrl: 'http://127.0.0.1:5099/faults',
    })
  }

  /** From the next request on; null: no more. */
  async misbehave(fault: Fault | readonly Fault[] | null): Promise<void> {
    const page = await this.probe.get('http://127.0.0.1:5099/faults', { method: 'PUT', body: JSON.stringify(fault) })
    if (page.status !== 200) throw new Error(`setting a fault: ${page.status} ${page.text}`)
  }

  async counters(): Promise<OriginCounters> {
    return JSON.parse((await this.probe.get('http://127.0.0.1:5099/counters')).text) as OriginCounters
  }

  override async contentBytesSent(): Promise<number> {
    return (await this.counters()).contentBytesSent
  }
}

/** Holds one image, `big/app:v1`, whose only layer is made up as it is asked for. */
export class GeneratedOrigin extends Origin {
  readonly port = 5000

  constructor(link: Link, folder: string, layerBytes: number) {
    const program = join(import.meta.dirname, '../support/generated-origin.ts')
    const node = [process.execPath, '--disable-warning=ExperimentalWarning']
    super({
      link,
      folder,
      command: [...node, program, '--host', '0.0.0.0', '--layer-bytes', String(layerBytes)],
      readyUrl: 'http://127.0.0.1:5000/v2/',
      // It hashes its layer first.
      readyLimitMs: 180_000,
    })
  }

  /** Digest of the image's manifest. */
  get digest(): string {
    return (JSON.parse(readFileSync(this.logFile, 'utf8')) as { digest: string }).digest
  }

  override contentBytesSent(): Promise<number> {
    return Promise.reject(new Error('a generated origin does not count'))
  }
}

export function makeOrigin(
  kind: OriginKind,
  link: Link,
  folder: string,
  { layerBytes = 0, certificates }: { layerBytes?: number | undefined; certificates?: string | undefined } = {},
): Origin {
  switch (kind) {
    case 'generated':
      return new GeneratedOrigin(link, folder, layerBytes)
    case 'docker-registry':
      return new DockerRegistry(link, folder)
    case 'shoal':
      return new ShoalOrigin(link, folder)
    case 'faulty':
      return new FaultyOrigin(link, folder, certificates)
  }
}
