// What an operator can say of one origin registry; the annotations are those of config.ts.
import { Type } from 'typebox'

const URL_PATTERN = '^https?://[^\\s/?#]+([/?#]\\S*)?$'
const url = { pattern: URL_PATTERN, mustBe: 'a URL that starts with http:// or https://' }

/** How one origin registry is reached. */
export const registrySettingsSchema = Type.Object(
  {
    endpoint: Type.Optional(
      Type.String({
        ...url,
        description: 'Where the registry is really reached, if not at https://<its name>. May be another mirror.',
      }),
    ),
    plainHttp: Type.Optional(
      Type.Boolean({
        default: false,
        description: 'Talk to this registry without TLS. Loopback addresses need no permission.',
      }),
    ),
    insecureSkipVerify: Type.Optional(
      Type.Boolean({ default: false, description: "Do not check the registry's certificate. For tests only." }),
    ),
    caFile: Type.Optional(
      Type.String({
        format: 'path',
        description: "PEM file with the authorities that may sign the registry's certificate, beside the system's.",
      }),
    ),
    certFile: Type.Optional(
      Type.String({ format: 'path', description: 'PEM file with the client certificate to show to the registry.' }),
    ),
    keyFile: Type.Optional(
      Type.String({ format: 'path', description: 'PEM file with the key of the client certificate.' }),
    ),
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
    username: Type.Optional(Type.String({ minLength: 1, description: 'User name for the registry.' })),
    password: Type.Optional(
      Type.String({ secret: true, description: 'Password or token for the registry. Better kept in `passwordFile`.' }),
    ),
    passwordFile: Type.Optional(
      Type.String({
        format: 'path',
        description: 'File whose first line is the password or token. Read again when it changes.',
      }),
    ),
    proxy: Type.Optional(
      Type.String({
        ...url,
        secret: true,
        description: 'HTTP proxy towards this registry. Overrides HTTP_PROXY and HTTPS_PROXY; may hold credentials.',
      }),
    ),
  },
  {
    additionalProperties: false,
    dependentRequired: {
      certFile: ['keyFile'],
      keyFile: ['certFile'],
      password: ['username'],
      passwordFile: ['username'],
    },
    not: { required: ['password', 'passwordFile'] },
    mustBe: 'given only one of password and passwordFile',
  },
)
