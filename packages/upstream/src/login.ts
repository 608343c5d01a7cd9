// Whether a registry takes a login: its version check, for which a token service gives a token that is good for nothing
// else.
import { readStart } from './body.ts'
import type { RegistrySettings } from './options.ts'
import type { RegistryRequest, Session } from './session.ts'
import type { RequestOptions } from './upstream.ts'

export async function checkLogin(session: Session, settings: RegistrySettings, options: RequestOptions): Promise<void> {
  const request: RegistryRequest = {
    settings,
    repository: '',
    path: '',
    scope: '',
    method: 'GET',
    headers: {},
    lane: 'metadata',
    what: 'this login',
    options,
    accept: [200],
  }
  await session.ask(request, (answer) => readStart(answer.body, 0))
}
