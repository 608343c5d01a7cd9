// docker's credential helpers: programs named docker-credential-<name> that know a registry's login.
import { spawn } from 'node:child_process'

const MAX_OUTPUT_BYTES = 256 * 1024
const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

export interface HelperAnswer {
  username: string
  secret: string
}

/** A helper did not give an answer. The message never has its output, which may hold a secret. */
export class CredentialHelperError extends Error {
  override readonly name = 'CredentialHelperError'
  readonly helper: string

  constructor(helper: string, reason: string, cause?: unknown) {
    super(`credential helper docker-credential-${helper} ${reason}`, { cause })
    this.helper = helper
  }
}

/** Whether a text can name a helper, and nothing else on the machine. */
export function isHelperName(name: unknown): name is string {
  return typeof name === 'string' && NAME_PATTERN.test(name)
}

/**
 * Asks a helper for the login at a server. Undefined when it knows none.
 * @throws CredentialHelperError when it is missing, fails, takes longer than `timeoutMs` or says too much
 */
export async function askCredentialHelper(
  helper: string,
  server: string,
  timeoutMs: number,
): Promise<HelperAnswer | undefined> {
  if (!isHelperName(helper)) throw new CredentialHelperError('?', 'has a name that is not allowed')
  const { code, output } = await run(helper, server, timeoutMs)
  if (code !== 0) {
    if (/credentials not found/i.test(output)) return undefined
    throw new CredentialHelperError(helper, `ended with exit code ${code}`)
  }
  let answer: unknown
  try {
    answer = JSON.parse(output)
  } catch {
    throw new CredentialHelperError(helper, 'did not answer with JSON')
  }
  const { Username: username, Secret: secret } = (answer ?? {}) as Record<string, unknown>
  if (typeof username !== 'string' || typeof secret !== 'string') {
    throw new CredentialHelperError(helper, 'answered without Username and Secret')
  }
  return secret === '' ? undefined : { username, secret }
}

function run(helper: string, server: string, timeoutMs: number): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    // A group of its own, so that what the helper starts ends with it.
    const child = spawn(`docker-credential-${helper}`, ['get'], {
      stdio: ['pipe', 'pipe', 'ignore'],
      detached: true,
      shell: false,
    })
    const chunks: Buffer[] = []
    let length = 0
    const kill = (): void => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
      } catch {
        child.kill('SIGKILL')
      }
    }
    const fail = (reason: string, cause?: unknown): void => {
      clearTimeout(timer)
      kill()
      child.stdout.destroy()
      reject(new CredentialHelperError(helper, reason, cause))
    }
    const timer = setTimeout(() => fail(`did not answer within ${timeoutMs} ms`), timeoutMs)
    child.on('error', (error: NodeJS.ErrnoException) =>
      fail(error.code === 'ENOENT' ? 'is not in PATH' : 'could not be started', error),
    )
    child.stdout.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length > MAX_OUTPUT_BYTES) fail(`said more than ${MAX_OUTPUT_BYTES} bytes`)
      else chunks.push(chunk)
    })
    child.on('close', (code) => {
      clearTimeout(timer)
      resolve({ code, output: Buffer.concat(chunks).toString('utf8') })
    })
    // A helper that ends before it has read its input is judged by its exit code.
    child.stdin.on('error', () => undefined)
    child.stdin.end(server)
  })
}
