// The endpoint where docker, containerd and podman get their tokens: GET with Basic (distribution specification, "Token
// Authentication"), or POST with a form (its "OAuth2" variant, which containerd tries first).
import type { FastifyPluginCallback, FastifyReply, FastifyRequest } from 'fastify'
import { OciError } from '@shoal/oci'
import { endpointOf, sendError } from '@shoal/registry'
import { readBasic, TOKEN_PATH, type Accounts, type Asking } from './accounts.ts'

const MAX_FORM_BYTES = 16 * 1024
const MAX_SCOPES = 32

export const tokenPlugin: FastifyPluginCallback<{ accounts: Accounts }> = (fastify, { accounts }, done) => {
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser(
    'application/x-www-form-urlencoded',
    { parseAs: 'string', bodyLimit: MAX_FORM_BYTES },
    (_request, body, parsed) => parsed(null, body),
  )
  fastify.setErrorHandler((error, request, reply) => sendError(request, reply, error))

  fastify.get(TOKEN_PATH, async (request, reply) => {
    const { authorization } = request.headers
    const login = readBasic(authorization)
    if (authorization !== undefined && !login) throw new OciError('UNAUTHORIZED', 'log in with user name and password')
    const { searchParams } = new URL(request.raw.url ?? '', 'http://localhost')
    return answer(accounts, request, reply, login, searchParams.getAll('scope'))
  })

  fastify.post(TOKEN_PATH, async (request, reply) => {
    const form = new URLSearchParams(typeof request.body === 'string' ? request.body : '')
    const user = form.get('username')
    const password = form.get('password')
    if (form.get('grant_type') !== 'password' || user === null || password === null) {
      throw new OciError('UNSUPPORTED', 'only grant_type=password with username and password is known here', {
        status: 400,
      })
    }
    return answer(accounts, request, reply, { user, password }, form.getAll('scope'))
  })
  done()
}

async function answer(
  accounts: Accounts,
  request: FastifyRequest,
  reply: FastifyReply,
  login: { user: string; password: string } | undefined,
  scopeTexts: string[],
): Promise<FastifyReply> {
  const asking: Asking = {
    authorization: undefined,
    remoteAddress: request.ip,
    endpoint: endpointOf(request),
  }
  const scopes = scopeTexts.flatMap((text) => text.split(' ')).filter((scope) => scope !== '')
  if (scopes.length > MAX_SCOPES) throw new OciError('DENIED', `at most ${MAX_SCOPES} scopes in one token`)
  const issued = await accounts.token(asking, login, scopes)
  reply.header('cache-control', 'no-store')
  return reply.send({
    token: issued.token,
    access_token: issued.token,
    expires_in: issued.expiresInSeconds,
    issued_at: issued.issuedAt.toISOString(),
  })
}
