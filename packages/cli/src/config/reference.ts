// The reference of all configuration keys, from the same schemas that check them.
import { keysOf, memberSchema, showDefault, type ConfigKey, type KeySchema } from './keys.ts'
import { formatQuantity } from './quantities.ts'

const INTRODUCTION = `# Configuration

<!-- Written by packages/cli/src/config/render-config-docs.ts from the schemas in the config.ts files. Do not edit. -->

\`shoal agent\`, \`shoal tracker\` and \`shoal registry\` are configured alike. Every key can be given

1. as a flag: \`--mirror-port 7800\`,
2. as an environment variable: \`SHOAL_MIRROR_PORT=7800\`,
3. in the YAML file named with \`--config\` (or \`SHOAL_CONFIG\`): \`mirrorPort: 7800\`,

and the first of these that has it decides. What none has is at its default. \`--check\` checks a configuration without
starting anything.

A configuration with a mistake is refused with exit code 2. So is one that names a file which the daemon needs and cannot
use: it is not there, is not what it should be, or is a secret that others may read. All mistakes are named at once (of
files that go together, as a certificate and its key, the first), with file, line and column:

\`\`\`
shoal: agent.yaml:3:1: mirorPort is not a known key: did you mean mirrorPort?
shoal: agent.yaml:7:13: storeQuota must be a size such as 500MB, 10GiB or a number of bytes, not "10Gb": B is for bytes
\`\`\`

How values are written:

| kind | in the file | in a flag or variable |
|---|---|---|
| duration | \`500ms\`, \`30s\`, \`5m\`, \`1h\`, \`1m30s\`; \`0\` | the same |
| size | \`500MB\` (powers of 1000), \`10GiB\` (powers of 1024), bytes without a unit | the same |
| rate | \`100MB/s\`, \`10MiB/s\`, \`100mbit\`, bytes per second without a unit | the same |
| list | \`[a, b]\` | \`a,b\`; a flag may also be repeated |
| yes or no | \`true\`, \`false\` | the same; a flag alone is \`true\` |
| path | relative to the file's folder | relative to the working directory |
| map | keys below the key | not possible: only in the file |
| list of maps | \`- \` before the first key of each entry | not possible: only in the file |

A key without a value (\`trackers:\`) and an empty variable count as not given. Variables that begin with \`SHOAL_\` and are
no key are told in the log and ignored; so is what Kubernetes adds for a Service named \`shoal\`
(\`SHOAL_PORT=tcp://…\`).
`

const EXAMPLES: Record<string, string> = {
  agent: `swarmKeyFiles: [/etc/shoal/swarm.key]
trackers: [tracker-1.example.com:7710, tracker-2.example.com:7710]
zone: rack-12
storeQuota: 200GiB
registries:
  registry.example.com:
    caFile: /etc/shoal/registry-ca.pem
    username: cluster
    passwordFile: /etc/shoal/registry-password`,
  tracker: `swarmKeyFiles: [/etc/shoal/swarm.key]
bootstrapPeers: [tracker-2.example.com:7710]`,
  registry: `dataDirectory: /srv/shoal-registry
tlsCertFile: /etc/shoal/tls.pem
tlsKeyFile: /etc/shoal/tls-key.pem
htpasswdFile: /etc/shoal/htpasswd
accessRules:
  - repositories: [public/**]
    users: [anonymous]
    actions: [pull]
  - repositories: [team-a/**]
    users: [ann, ci]
    actions: [pull, push, delete]`,
}

function kindInWords({ kind, schema }: Pick<ConfigKey, 'kind' | 'schema'>): string {
  if (kind === 'choice') return (schema.enum ?? []).map((value) => `\`${value}\``).join(', ')
  if (schema.unit === 'ms') return 'duration'
  if (schema.unit === 'bytes') return 'size'
  if (schema.unit === 'bytesPerSecond') return 'rate'
  if (schema.format === 'path') return 'path'
  if (kind === 'list') return schema.items?.format === 'path' ? 'list of paths' : 'list'
  return { number: 'number', boolean: 'yes or no', map: 'map', entries: 'list of maps', text: 'text' }[kind]
}

/** What values are possible, beyond the kind. */
function rule(schema: KeySchema): string {
  const bound = schema.items ?? schema
  if (bound.mustBe !== undefined && schema.properties === undefined) {
    return schema.items ? ` Each is ${bound.mustBe}.` : ` Must be ${bound.mustBe}.`
  }
  const show = (value: number) => (schema.unit ? formatQuantity(value, schema.unit) : String(value))
  const { minimum, maximum } = schema
  if (minimum !== undefined && maximum !== undefined) return ` From ${show(minimum)} to ${show(maximum)}.`
  if (minimum !== undefined && minimum > 0) return ` At least ${show(minimum)}.`
  return ''
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}

function defaultCell(key: Pick<ConfigKey, 'schema'> & { isRequired?: boolean }): string {
  if (key.isRequired) return '**must be given**'
  const shown = showDefault(key.schema)
  if (shown !== undefined) return `\`${shown}\``
  return Array.isArray(key.schema.default) ? 'none' : '–'
}

function table(header: string[], rows: string[][]): string {
  return [header, header.map(() => '---'), ...rows].map((row) => `| ${row.map(cell).join(' | ')} |`).join('\n')
}

function keyRow(key: ConfigKey): string[] {
  const about = `${key.schema.description ?? ''}${rule(key.schema)}`
  return [`\`${key.name}\``, kindInWords(key), defaultCell(key), about, key.variable ? `\`${key.variable}\`` : '–']
}

/** A table for the settings below a key that is a map, or a list of maps. */
function mapTable(key: ConfigKey): string {
  const member = memberSchema(key.schema)
  const rows = keysOf(member ?? {}).map((inner) => [
    `\`${inner.name}\``,
    kindInWords(inner),
    defaultCell(inner),
    `${inner.schema.description ?? ''}${rule(inner.schema)}`,
  ])
  return `Settings below each entry of \`${key.name}\`:\n\n${table(['key', 'kind', 'default', 'what it does'], rows)}`
}

function daemonPart(name: string, schema: KeySchema): string {
  const keys = keysOf(schema)
  const sections = [...new Set(keys.map((key) => key.schema.section ?? 'Keys'))]
  const parts = sections.map((section) => {
    const inSection = keys.filter((key) => (key.schema.section ?? 'Keys') === section)
    const maps = inSection.filter((key) => memberSchema(key.schema)).map(mapTable)
    const header = ['key', 'kind', 'default', 'what it does', 'variable']
    return [`### ${section}`, table(header, inSection.map(keyRow)), ...maps].join('\n\n')
  })
  const example = `\`\`\`yaml\n${EXAMPLES[name] ?? ''}\n\`\`\``
  return [`## shoal ${name}`, schema.description ?? '', example, ...parts].join('\n\n')
}

/** The whole page, in Markdown. */
export function renderReference(schemas: Record<string, KeySchema>): string {
  const parts = Object.entries(schemas).map(([name, schema]) => daemonPart(name, schema))
  return `${[INTRODUCTION.trimEnd(), ...parts].join('\n\n')}\n`
}

/** The example files, for whoever wants to check them. */
export function exampleConfigs(): Readonly<Record<string, string>> {
  return EXAMPLES
}
