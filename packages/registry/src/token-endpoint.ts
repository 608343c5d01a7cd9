// Where clients of a registry get their tokens: GET with Basic (distribution specification, "Token Authentication"), or
// POST with a form (its OAuth2 variant, which containerd tries first, and docker when its login is a refresh token). What
// a token is good for, and who gets one, is the issuer's to say.
import type { FastifyPluginCallback, FastifyReply, FastifyRequest, onRequestHookHandler } from 'fastify'
import { OciError } from '@shoal/oci'
import { endpointOf } from './call.ts'
import { sendError } from './errors.ts'
import { boundSmallBody, LOGIN_LIMIT_MS } from './slow-clients.ts'

const MAX_FORM_BYTES = 16 * 1024

export interface TokenRequest {
  /** What the client shows, as the value of an `Authorization: Basic` header; undefined: nothing. */
  basic: string | undefined
  /** What the token shall be good for; a login alone asks for nothing. */
  scopes: string[]
  /** Scheme and host as the client wrote them. */
  endpoint: string | undefined
  remoteAddress: string
  /** Sent along to whom is asked about the login. */
  requestId: string
}

export interface IssuedToken {
  token: string
  expiresInSeconds: number
  issuedAt: Date
}

export interface TokenEndpointOptions {
  path: string
  /**
   * A refresh token that another token service gave out says nothing here: `ignored`, for what everyone may have, or
   * `refused`, so that the client asks in another way.
   */
  refreshTokens: 'ignored' | 'refused'
  /** @throws OciError(UNAUTHORIZED) for a login that is not taken */
  issue: (request: TokenRequest) => Promise<IssuedToken>
}

export const tokenEndpoint: FastifyPluginCallback<TokenEndpointOptions> = (fastify, options, done) => {
  const { path, refreshTokens, issue } = options
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser(
    'application/x-www-form-urlencoded',
    { parseAs: 'string', bodyLimit: MAX_FORM_BYTES },
    (_request, body, parsed) => parsed(null, body),
  )
  fastify.setErrorHandler((error, request, reply) => sendError(request, reply, error))

  const answer = async (
    request: FastifyRequest,
    reply: FastifyReply,
    basic: string | undefined,
    asked: URLSearchParams,
  ): Promise<FastifyReply> => {
    const scopes = asked.getAll('scope').flatMap((text) => text.split(' '))
    const { token, expiresInSeconds, issuedAt } = await issue({
      ...{ basic, scopes: scopes.filter((scope) => scope !== ''), endpoint: endpointOf(request) },
      ...{ remoteAddress: request.ip, requestId: request.id },
    })
    reply.header('cache-control', 'no-store')
    return reply.send({
      token,
      access_token: token,
      expires_in: expiresInSeconds,
      issued_at: issuedAt.toISOString(),
    })
  }

  fastify.get(path, (request, reply) => {
    const { searchParams } = new URL(request.raw.url ?? '', 'http://localhost')
    return answer(request, reply, request.headers.authorization, searchParams)
  })
  const boundBody: onRequestHookHandler = (request, _reply, next) => {
    boundSmallBody(request.raw, LOGIN_LIMIT_MS)
    next()
  }
  fastify.post(path, { onRequest: boundBody }, async (request, reply) => {
    const form = new URLSearchParams(typeof request.body === 'string' ? request.body : '')
    const [user, password] = [form.get('username'), form.get('password')]
    const isRefresh = form.get('grant_type') === 'refresh_token'
    if (isRefresh && refreshTokens === 'ignored') return answer(request, reply, undefined, form)
    if (form.get('grant_type') === 'password' && user !== null && password !== null) {
      return answer(request, reply, `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`, form)
    }
    const message = 'only grant_type=password with username and password is known here'
    throw new OciError('UNSUPPORTED', message, { status: 400 })
  })
  done()
}
