// Every key the embedded registry can be configured with. The command line, the environment, the reference in docs/ and
// the checks of a configuration file all follow from this schema. Annotations: see the agent's config.ts.
import { Type, type Static } from '@shoal/oci'
import {
  accessRuleSchema,
  notificationSchema,
  placeSettingsSchema,
  quotaSchema,
  replicationRuleSchema,
} from './config-entries.ts'

const HOST_PATTERN = '^([0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,40}|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)$'

/** All keys of the embedded registry. */
export const registryConfigSchema = Type.Object(
  {
    dataDirectory: Type.String({
      section: 'Storage',
      format: 'path',
      default: '/var/lib/shoal/registry',
      description: 'Where images are kept that lie in none of the `places`, and keys and queues of the registry.',
    }),
    places: Type.Record(Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,62}$' }), placeSettingsSchema, {
      section: 'Storage',
      mustBe: 'a map from the name of a place (lower case, digits, -) to its settings',
      default: {},
      maxProperties: 64,
      additionalProperties: false,
      description: 'Other folders, and buckets of object stores, and which repositories lie there.',
    }),
    defaultPlace: Type.Optional(
      Type.String({
        section: 'Storage',
        pattern: '^[a-z0-9][a-z0-9-]{0,62}$',
        mustBe: 'the name of a place',
        description: 'The place of repositories that no other claims, instead of `dataDirectory`.',
      }),
    ),
    quotas: Type.Optional(
      Type.Array(quotaSchema, {
        section: 'Storage',
        maxItems: 1_024,
        description:
          'How much namespaces may take. A push that does not fit is refused. Every quota that matches counts.',
      }),
    ),
    usageInterval: Type.Integer({
      section: 'Storage',
      unit: 'ms',
      minimum: 10_000,
      maximum: 86_400_000,
      default: 600_000,
      description: 'How often what is stored is counted, for the metrics and the quotas.',
    }),
    uploadExpiry: Type.Integer({
      section: 'Storage',
      unit: 'ms',
      minimum: 60_000,
      default: 86_400_000,
      description: 'An upload that nobody goes on with for this long is dropped.',
    }),
    collectionInterval: Type.Integer({
      section: 'Storage',
      unit: 'ms',
      minimum: 0,
      maximum: 2_000_000_000,
      default: 86_400_000,
      description: 'How often garbage is collected; 0 never does (`shoal registry gc` still can).',
    }),
    collectionGrace: Type.Integer({
      section: 'Storage',
      unit: 'ms',
      minimum: 0,
      default: 86_400_000,
      description:
        'What nobody needs or uses is removed after this long. A push may take half of it from its first blob to its ' +
        'manifest. 0 is only for a registry that nobody pushes to.',
    }),
    removeUntagged: Type.Boolean({
      section: 'Storage',
      default: false,
      description: 'Whether manifests that no tag leads to (nor an index, nor as a signature) are garbage.',
    }),
    allowSparseIndexes: Type.Boolean({
      section: 'Storage',
      default: false,
      description: 'Whether an index is taken of which some manifests were not pushed.',
    }),
    host: Type.String({
      section: 'Endpoint',
      pattern: HOST_PATTERN,
      mustBe: 'a host name or an IP address',
      default: '0.0.0.0',
      description: 'Address the registry listens on.',
    }),
    port: Type.Integer({
      section: 'Endpoint',
      minimum: 0,
      maximum: 65_535,
      mustBe: 'a port from 0 to 65535 (0 takes a free one)',
      default: 9000,
      description: 'Port of the registry, its health and its metrics.',
    }),
    tlsCertFile: Type.Optional(
      Type.String({
        section: 'Endpoint',
        format: 'path',
        description:
          'PEM file with the certificate and its chain, read again when it changes. Without it the registry speaks ' +
          'plain HTTP.',
      }),
    ),
    tlsKeyFile: Type.Optional(
      Type.String({ section: 'Endpoint', format: 'path', description: 'PEM file with the key of the certificate.' }),
    ),
    publicUrl: Type.Optional(
      Type.String({
        section: 'Endpoint',
        pattern: '^https?://[^/\\s?#@]+/?$',
        mustBe: 'a URL without a path, as https://registry.example.com',
        description:
          'Where clients find the registry. Needed behind a proxy that ends TLS; else it is what each client calls it.',
      }),
    ),
    corsOrigins: Type.Optional(
      Type.Array(
        Type.String({
          pattern: '^https?://([a-z0-9.-]+|\\[[0-9a-f:.]+\\])(:[0-9]{1,5})?$',
          mustBe: 'an origin in lower case, without a path, as https://ui.example.com',
        }),
        {
          section: 'Endpoint',
          minItems: 1,
          maxItems: 64,
          description: 'Origins whose web pages may use the registry from a browser (CORS). Without it, none.',
        },
      ),
    ),
    clientStall: Type.Integer({
      section: 'Endpoint',
      unit: 'ms',
      minimum: 1_000,
      maximum: 86_400_000,
      default: 300_000,
      description:
        'A client that sends no byte of an upload, or takes less than a MiB of a blob, for this long is cut off.',
    }),
    htpasswdFile: Type.Optional(
      Type.String({
        section: 'Accounts',
        format: 'path',
        description:
          'Accounts: a file as `shoal registry user add` and `htpasswd -B` write it, read again when it changes. ' +
          'Without it everybody may do everything.',
      }),
    ),
    accessRules: Type.Optional(
      Type.Array(accessRuleSchema, {
        section: 'Accounts',
        maxItems: 4_096,
        description:
          'Who may do what with which repositories. Rules only allow; what no rule allows is refused. Without any, who ' +
          'has logged in may do everything, and others nothing.',
      }),
    ),
    tokenKeyFile: Type.Optional(
      Type.String({
        section: 'Accounts',
        format: 'path',
        description:
          'Signing key of the tokens that clients log in with, made when missing. Registries that serve one name must ' +
          'share it. Without it `token-key.json` in the data directory.',
      }),
    ),
    tokenLifetime: Type.Integer({
      section: 'Accounts',
      unit: 'ms',
      minimum: 60_000,
      maximum: 86_400_000,
      default: 300_000,
      description: 'How long a token is good for, and so how long a removed account may still be used.',
    }),
    notifications: Type.Optional(
      Type.Array(notificationSchema, {
        section: 'Operation',
        maxItems: 64,
        description: "Who is told of pushes and deletes, in the format of Docker's registry.",
      }),
    ),
    replication: Type.Optional(
      Type.Array(replicationRuleSchema, {
        section: 'Operation',
        maxItems: 64,
        description: 'Other registries that get copies of what is pushed, until they have them.',
      }),
    ),
    shutdownGrace: Type.Integer({
      section: 'Operation',
      unit: 'ms',
      minimum: 0,
      maximum: 3_600_000,
      default: 10_000,
      description: 'How long running requests may take to finish when the registry is told to stop.',
    }),
    logLevel: Type.Enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'], {
      section: 'Operation',
      default: 'info',
      description: 'Least severe messages that are logged.',
    }),
    logFormat: Type.Enum(['json', 'pretty'], {
      section: 'Operation',
      default: 'json',
      description: '`json` for machines, one object a line; `pretty` for people.',
    }),
  },
  {
    additionalProperties: false,
    title: 'registry',
    description: 'The embedded registry.',
    dependentRequired: {
      tlsCertFile: ['tlsKeyFile'],
      tlsKeyFile: ['tlsCertFile'],
      accessRules: ['htpasswdFile'],
      tokenKeyFile: ['htpasswdFile'],
    },
  },
)

/** Settings of the embedded registry: durations in ms, every default filled in. */
export type RegistryConfig = Static<typeof registryConfigSchema>

/** Fills in the defaults, for those who start a registry from code. Does not check what is given. */
export function registryConfig(given: Partial<RegistryConfig> = {}): RegistryConfig {
  const defaults = Object.entries(registryConfigSchema.properties).flatMap(([key, property]) =>
    'default' in property ? [[key, structuredClone(property.default)]] : [],
  )
  return { ...(Object.fromEntries(defaults) as RegistryConfig), ...given }
}
