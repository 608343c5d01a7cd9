// The lab's hand at a node's place in the network: a small process in the node's namespace that pulls, pushes and asks
// over HTTP for the test that started it. One JSON object a line each way; it ends when its input does.
import { createInterface } from 'node:readline'
import { buildImage, type ImageSpec } from '../support/image-spec.ts'
import { fetchAll } from '../support/http.ts'
import { pushImage, pushIndex } from '../support/push.ts'
import { pull, type PullRequest } from './pull-client.ts'

export type ProbeCommand =
  | { op: 'get'; url: string; method?: string; headers?: Record<string, string>; body?: string; idleLimitMs?: number }
  | { op: 'pull'; request: PullRequest }
  | { op: 'push'; base: string; repository: string; tag: string; spec: ImageSpec; headers?: Record<string, string> }

export interface ProbeAnswer {
  id: number
  /** Set while the work goes on. */
  progress?: number
  result?: unknown
  error?: { message: string; status?: number; code?: string; wrong?: string[] }
}

/** What `get` answers; bodies are text and small. */
export interface ProbePage {
  status: number
  headers: Record<string, string>
  text: string
}

const TEXT_LIMIT = 4 * 1024 * 1024

async function carryOut(command: ProbeCommand, onProgress: (bytes: number) => void): Promise<unknown> {
  switch (command.op) {
    case 'get': {
      const { url, method = 'GET', headers = {}, body, idleLimitMs = 10_000 } = command
      const sent = body === undefined ? undefined : Buffer.from(body)
      const answer = await fetchAll(url, {
        method,
        headers: { ...headers, ...(sent ? { 'content-length': sent.length } : {}) },
        ...(sent ? { body: [sent] } : {}),
        idleLimitMs,
      })
      return {
        status: answer.status,
        headers: Object.fromEntries(Object.entries(answer.headers).map(([key, value]) => [key, String(value)])),
        text: answer.body.subarray(0, TEXT_LIMIT).toString(),
      } satisfies ProbePage
    }
    case 'pull':
      return pull(command.request, onProgress)
    case 'push': {
      const { base, repository, tag, spec, headers } = command
      const made = buildImage(spec)
      if ('images' in made) await pushIndex(base, repository, tag, made, headers)
      else await pushImage(base, repository, tag, made, headers)
      return made.digest
    }
  }
}

function say(answer: ProbeAnswer): void {
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}

async function serve(id: number, command: ProbeCommand): Promise<void> {
  try {
    say({ id, result: await carryOut(command, (progress) => say({ id, progress })) })
  } catch (error) {
    const { message, status, code, wrong } = error as Error & { status?: number; code?: string; wrong?: string[] }
    say({
      id,
      error: { message, ...(status ? { status } : {}), ...(code ? { code } : {}), ...(wrong ? { wrong } : {}) },
    })
  }
}

const lines = createInterface({ input: process.stdin })
lines.on('line', (line) => {
  const { id, command } = JSON.parse(line) as { id: number; command: ProbeCommand }
  serve(id, command).catch((error: unknown) => process.stderr.write(`${String(error)}\n`))
})
lines.on('close', () => process.exit(0))
say({ id: 0, result: 'ready' })
