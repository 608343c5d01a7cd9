// What an operator can say, in a configuration file, of how a registry is reached and who logs in there. The annotations
// are those of the daemons' config.ts files, which take these keys into their own schemas.
import { Type } from '@shoal/oci'

/** A URL, in words and as a pattern. */
export const urlFormat = {
  pattern: '^https?://[^\\s/?#]+([/?#]\\S*)?$',
  mustBe: 'a URL that starts with http:// or https://',
}

/** Certificates. */
export const tlsKeys = {
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
}

/** The login, and the way there. */
export const loginKeys = {
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
      ...urlFormat,
      secret: true,
      description: 'HTTP proxy towards this registry. Overrides HTTP_PROXY and HTTPS_PROXY; may hold credentials.',
    }),
  ),
}

/** Which of the keys go together. */
export const reachRules = {
  additionalProperties: false,
  dependentRequired: {
    certFile: ['keyFile'],
    keyFile: ['certFile'],
    password: ['username'],
    passwordFile: ['username'],
  },
  not: { required: ['password', 'passwordFile'] },
  mustBe: 'given only one of password and passwordFile',
}
