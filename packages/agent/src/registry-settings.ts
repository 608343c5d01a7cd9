// What an operator can say of one origin registry; the annotations are those of config.ts.
import { Type } from '@shoal/oci'
import { loginKeys, reachRules, tlsKeys, urlFormat } from '@shoal/upstream'

/** How one origin registry is reached. */
export const registrySettingsSchema = Type.Object(
  {
    endpoint: Type.Optional(
      Type.String({
        ...urlFormat,
        description: 'Where the registry is really reached, if not at https://<its name>. May be another mirror.',
      }),
    ),
    plainHttp: Type.Optional(
      Type.Boolean({
        default: false,
        description: 'Talk to this registry without TLS. Loopback addresses need no permission.',
      }),
    ),
    ...tlsKeys,
    access: Type.Optional(
      Type.Enum(['client', 'node'], {
        default: 'client',
        description:
          'Who may read what needs credentials. `client`: whoever brings credentials that the registry accepts. ' +
          '`node`: everyone on the node may read what the login of the node may read.',
      }),
    ),
    pushAs: Type.Optional(
      Type.Enum(['client', 'node'], {
        default: 'client',
        description:
          'In whose name pushes through the agent reach the registry. `client`: with the credentials that the client ' +
          'brings. `node`: everyone who reaches the mirror endpoint may push what the login of the node may push.',
      }),
    ),
    ...loginKeys,
  },
  reachRules,
)
