// The schemas of what there may be several of in the registry's configuration; the annotations are those of config.ts.
import { Type } from '@shoal/oci'
import { loginKeys, reachRules, tlsKeys } from '@shoal/upstream'
import { ACTIONS, REPOSITORY_PATTERN, USER_IN_RULE_PATTERN } from './accounts/rules.ts'

/** Patterns of repository names without a user in them. */
const PLAIN_PATTERN = '^[a-z0-9._*/-]+$'

/** A folder or a bucket: see PlaceSettings. */
export const placeSettingsSchema = Type.Object(
  {
    repositories: Type.Optional(
      Type.Array(Type.String({ pattern: PLAIN_PATTERN }), {
        maxItems: 1_024,
        description:
          'What lies here: `team-a/**`, `base/*`. `*` is one part of a name, `**` any number of them. The first place ' +
          'that matches counts.',
      }),
    ),
    directory: Type.Optional(Type.String({ format: 'path', description: 'A folder, of this registry alone.' })),
    bucket: Type.Optional(
      Type.String({ minLength: 1, description: 'A bucket of an S3-compatible object store, instead of a folder.' }),
    ),
    prefix: Type.Optional(
      Type.String({
        pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]*$',
        description: 'Where in the bucket. Without it the whole bucket is used.',
      }),
    ),
    endpoint: Type.Optional(
      Type.String({
        pattern: '^https?://[^\\s/?#]+/?$',
        mustBe: 'a URL that starts with http:// or https://',
        description: 'Where the object store is, if it is not that of AWS.',
      }),
    ),
    region: Type.Optional(Type.String({ default: 'us-east-1', description: 'Region of the bucket.' })),
    pathStyle: Type.Optional(
      Type.Boolean({
        description:
          'Whether the bucket stands in the path of URLs, not in the host. Without it: if there is an endpoint.',
      }),
    ),
    credentialsFile: Type.Optional(
      Type.String({
        format: 'path',
        description:
          'Keys in the format of `~/.aws/credentials`. Without it they come from where the AWS SDK looks: environment, ' +
          'files, role of the machine.',
      }),
    ),
    profile: Type.Optional(Type.String({ description: 'Which profile of the file. Without it: `default`.' })),
  },
  { additionalProperties: false },
)

/** A rule of who may do what: see {@link AccessRule}. */
export const accessRuleSchema = Type.Object(
  {
    repositories: Type.Array(
      Type.String({ pattern: REPOSITORY_PATTERN, mustBe: 'a pattern of repository names, as team-a/** or base/*' }),
      {
        minItems: 1,
        maxItems: 256,
        description:
          '`*` stands for one part of a name or a piece of it, `**` for any number of parts, `{user}` for the name of ' +
          'who asks.',
      },
    ),
    users: Type.Array(
      Type.String({ pattern: USER_IN_RULE_PATTERN, mustBe: 'a user name, * (everybody with an account) or anonymous' }),
      {
        minItems: 1,
        maxItems: 1_024,
        description: 'User names; `*` is everybody who has logged in, `anonymous` everybody at all.',
      },
    ),
    actions: Type.Array(Type.Enum([...ACTIONS]), {
      minItems: 1,
      maxItems: 8,
      description: 'What they may do: `pull`, `push`, `delete`.',
    }),
  },
  { additionalProperties: false, required: ['repositories', 'users', 'actions'] },
)

/** Repositories that are limited together: see QuotaSettings. */
export const quotaSchema = Type.Object(
  {
    repositories: Type.Array(
      Type.String({ pattern: PLAIN_PATTERN, mustBe: 'a pattern of repository names, as team-a/** or base/*' }),
      { minItems: 1, maxItems: 256, description: 'Whose sizes are added up: `team-a/**`, `base/*`.' },
    ),
    limit: Type.Integer({ unit: 'bytes', minimum: 1, description: 'How much they may take together.' }),
  },
  { additionalProperties: false, required: ['repositories', 'limit'] },
)

/** Who is told of pushes and deletes: see NotificationSettings. */
export const notificationSchema = Type.Object(
  {
    url: Type.String({
      pattern: '^https?://[^\\s@#]+$',
      mustBe: 'a URL that starts with http:// or https://, without a user',
      description: 'Where events are posted. Each may be there once.',
    }),
    headersFile: Type.Optional(
      Type.String({ format: 'path', description: 'Headers to send along, one `Name: value` a line. May change.' }),
    ),
    repositories: Type.Optional(
      Type.Array(Type.String({ pattern: PLAIN_PATTERN }), {
        minItems: 1,
        maxItems: 256,
        description: 'Of which repositories: `team-a/**`, `base/*`. Without it, of all.',
      }),
    ),
  },
  { additionalProperties: false, required: ['url'] },
)

/** Leading parts of repository names. */
const NAME_PREFIX = {
  pattern: '^[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*)*$',
  mustBe: 'the beginning of a repository name, as team-a or site-1/team-a',
  maxLength: 200,
}

/** Where images are copied when they are pushed: see ReplicationRule. */
export const replicationRuleSchema = Type.Object(
  {
    url: Type.String({
      pattern: '^https?://[^/\\s?#@]+/?$',
      mustBe: 'a URL without a path, as https://registry.example.com',
      description: 'The registry that gets copies: another of Shoal, or any other.',
    }),
    name: Type.Optional(
      Type.String({
        pattern: '^[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}$',
        mustBe: 'a name of letters, digits and . _ : / -',
        description:
          'What metrics, the log and the queue call it. Without it the host and `addPrefix`. Each may be there once.',
      }),
    ),
    repositories: Type.Optional(
      Type.Array(Type.String({ pattern: PLAIN_PATTERN }), {
        minItems: 1,
        maxItems: 256,
        description: 'Of which repositories: `team-a/**`, `base/*`. Without it, of all.',
      }),
    ),
    removePrefix: Type.Optional(
      Type.String({ ...NAME_PREFIX, description: 'Leading parts of names that are left out there.' }),
    ),
    addPrefix: Type.Optional(
      Type.String({ ...NAME_PREFIX, description: 'What is put before names there, after `removePrefix`.' }),
    ),
    ...loginKeys,
    ...tlsKeys,
  },
  { ...reachRules, required: ['url'] },
)
