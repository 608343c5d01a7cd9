// A registry with a token service, for the tests of this room.
import type { TestContext } from 'node:test'
import type { UpstreamOptions } from './options.ts'
import {
  requestOptions,
  sendError,
  sendManifest,
  startServer,
  startUpstream,
  targetAt,
  type FakeServer,
  type SeenRequest,
} from './testing.ts'

/** The header of a name and a password, as `name:password`. */
export const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`

export interface TokenRegistry {
  registry: FakeServer
  /** Requests for tokens. */
  asked: SeenRequest[]
  /** Tokens that are good at the moment. */
  good: Set<string>
}

/** A registry with a token service at its side. The service takes user:secret, anonymous, and the token refresh-me. */
export async function startTokenRegistry(
  t: TestContext,
  options: { expiresIn?: number; scope?: string; oauthOnly?: boolean; hold?: Promise<unknown> } = {},
): Promise<TokenRegistry> {
  const good = new Set<string>()
  const asked: SeenRequest[] = []
  const registry = await startServer(t, async (request, response) => {
    const url = new URL(request.url, 'http://x')
    if (url.pathname === '/token') {
      asked.push(request)
      await options.hold
      const { authorization } = request.headers
      const form = new URLSearchParams(request.body)
      if (options.oauthOnly === true && request.method === 'GET') return sendError(response, 404, 'X')
      const refused =
        (authorization !== undefined && authorization !== basic('user:secret')) ||
        (form.has('password') && form.get('password') !== 'secret') ||
        (form.has('refresh_token') && form.get('refresh_token') !== 'refresh-me')
      if (refused) return sendError(response, 401, 'UNAUTHORIZED')
      const token = `token-${asked.length}`
      good.add(token)
      response.end(JSON.stringify({ [form.size > 0 ? 'access_token' : 'token']: token, expires_in: options.expiresIn }))
      return
    }
    if (good.has(request.headers.authorization?.replace('Bearer ', '') ?? '')) return sendManifest(request, response)
    const scope = options.scope ?? 'repository:team/app:pull'
    const challenge = `Bearer realm="http://${request.headers.host}/token",service="reg",scope="${scope}"`
    sendError(response, 401, 'UNAUTHORIZED', { 'www-authenticate': challenge })
  })
  return { registry, asked, good }
}

/** Asks for a manifest with a client of its own. */
export function head(t: TestContext, server: FakeServer, options: UpstreamOptions = {}): Promise<unknown> {
  return startUpstream(t, options).headManifest(targetAt(server.host), '1.0', requestOptions())
}
