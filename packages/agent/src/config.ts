// Every key an agent can be configured with. The command line, the environment, the reference in docs/ and the checks
// of a configuration file all follow from this schema.
//
// Annotations beside JSON Schema's own: `unit` (the value is a number of it; people write 30s, 10GiB, 100mbit),
// `format: 'path'` (relative to the file it is written in), `mustBe` (the rule in words), `secret` (never shown),
// `section` (heading in the reference).
import { Type, type Static } from '@shoal/oci'
import { registrySettingsSchema } from './registry-settings.ts'

const HOST_PATTERN = '^([0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,40}|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)$'
const REGISTRY_PATTERN = '^(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?$'
const RULE_PATTERN =
  '^(\\*|(\\*\\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:([0-9]{1,5}|\\*))?|\\[[0-9A-Fa-f:.]+\\](:[0-9]{1,5})?)$'
const NODE_PATTERN = '^(/\\S+|(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):[0-9]{1,5})$'

const host = { pattern: HOST_PATTERN, mustBe: 'a host name or an IP address' }
const rule = { pattern: RULE_PATTERN, mustBe: 'a registry host, *.domain or *' }
const node = { pattern: NODE_PATTERN, mustBe: 'host:port or a multiaddr such as /ip4/10.0.0.1/tcp/7710' }
const port = { minimum: 0, maximum: 65_535, mustBe: 'a port from 0 to 65535 (0 takes a free one)' }

/** All keys of an agent. */
export const agentConfigSchema = Type.Object(
  {
    dataDirectory: Type.String({
      section: 'Node',
      format: 'path',
      default: '/var/lib/shoal/agent',
      description: "Where the node's identity, the store and its index are kept.",
    }),
    zone: Type.String({
      section: 'Node',
      default: 'default',
      pattern: '^[A-Za-z0-9]([A-Za-z0-9._/-]{0,62})$',
      mustBe: 'up to 63 letters, digits, dots, dashes, underscores or slashes',
      description: 'Label for the locality of this node. Peers of the same zone are preferred.',
    }),
    swarmKeyFiles: Type.Array(Type.String({ format: 'path' }), {
      section: 'Node',
      minItems: 1,
      maxItems: 8,
      description:
        'Files with the swarm keys that admit a node to the cluster (`shoal key new`). The first is used, all are ' +
        'accepted: so a key is changed without an outage.',
    }),
    mirrorHost: Type.String({
      ...host,
      section: 'Mirror endpoint',
      default: '127.0.0.1',
      description:
        'Address the mirror endpoint listens on. Who reaches it can pull what this node can pull, so anything but a ' +
        'loopback address needs `mirrorTlsClientCaFile`.',
    }),
    mirrorPort: Type.Integer({
      ...port,
      section: 'Mirror endpoint',
      default: 7700,
      description: 'Port of the mirror endpoint that container runtimes pull from.',
    }),
    mirrorTlsCertFile: Type.Optional(
      Type.String({
        section: 'Mirror endpoint',
        format: 'path',
        description: 'PEM file with the certificate and its chain: the mirror endpoint speaks HTTPS.',
      }),
    ),
    mirrorTlsKeyFile: Type.Optional(
      Type.String({
        section: 'Mirror endpoint',
        format: 'path',
        description: 'PEM file with the key of the certificate.',
      }),
    ),
    mirrorTlsClientCaFile: Type.Optional(
      Type.String({
        section: 'Mirror endpoint',
        format: 'path',
        description: 'PEM file with the authorities of clients: who shows no certificate signed by them is refused.',
      }),
    ),
    defaultRegistry: Type.String({
      section: 'Mirror endpoint',
      pattern: REGISTRY_PATTERN,
      mustBe: 'a registry host with an optional port',
      default: 'docker.io',
      description: 'Registry of a request that names none, as from `registry-mirrors` of docker.',
    }),
    manifestTimeout: Type.Integer({
      section: 'Mirror endpoint',
      unit: 'ms',
      minimum: 100,
      maximum: 300_000,
      default: 10_000,
      description:
        'A manifest is answered within this time, be it with an error: runtimes wait for ever. After three fifths of it the ' +
        'origin is asked for it directly.',
    }),
    blobTimeout: Type.Integer({
      section: 'Mirror endpoint',
      unit: 'ms',
      minimum: 1_000,
      maximum: 3_600_000,
      default: 30_000,
      description: 'A blob that makes no progress at all for this long, from peers or origin, ends with an error.',
    }),
    clientStall: Type.Integer({
      section: 'Mirror endpoint',
      unit: 'ms',
      minimum: 1_000,
      maximum: 86_400_000,
      default: 300_000,
      description:
        'A client that sends no byte of an upload for this long, or takes less than a MiB of a blob, is cut off.',
    }),
    tagCacheTtl: Type.Integer({
      section: 'Mirror endpoint',
      unit: 'ms',
      minimum: 0,
      maximum: 86_400_000,
      default: 5_000,
      description: 'How long the digest of a tag is believed before the origin is asked again.',
    }),
    lookahead: Type.Integer({
      section: 'Mirror endpoint',
      unit: 'bytes',
      minimum: 0,
      default: 2 * 1024 ** 3,
      description:
        'Bytes of the layers of one image that are fetched as soon as a client gets its manifest, before it asks for ' +
        'them. Given up after 5 s in which the client asks for none. 0 turns it off.',
    }),
    accessTtl: Type.Integer({
      section: 'Mirror endpoint',
      unit: 'ms',
      minimum: 0,
      maximum: 86_400_000,
      default: 300_000,
      description:
        'How long it is believed that a client, or everyone, may read a repository, before the origin is asked.',
    }),
    accessOutageTtl: Type.Integer({
      section: 'Mirror endpoint',
      unit: 'ms',
      minimum: 0,
      maximum: 2_592_000_000,
      default: 3_600_000,
      description:
        'How long a client whose credentials were accepted may go on reading while the origin does not answer. ' +
        'What everyone may read is served without such a limit.',
    }),
    p2pHost: Type.String({
      ...host,
      section: 'Peers',
      default: '0.0.0.0',
      description: 'Address the control plane (libp2p) listens on.',
    }),
    p2pPort: Type.Integer({
      ...port,
      section: 'Peers',
      default: 7701,
      description: 'Port of the control plane.',
    }),
    transferHost: Type.String({
      ...host,
      section: 'Peers',
      default: '0.0.0.0',
      description: 'Address the transfer plane listens on: here other nodes fetch chunks.',
    }),
    transferPort: Type.Integer({
      ...port,
      section: 'Peers',
      default: 7702,
      description: 'Port of the transfer plane.',
    }),
    announceAddresses: Type.Array(Type.String(host), {
      section: 'Peers',
      default: [],
      maxItems: 16,
      description:
        'Host name or IP address told to other nodes, of several the first. Empty: all addresses of the node but loopback.',
    }),
    trackers: Type.Array(Type.String(node), {
      section: 'Peers',
      default: [],
      maxItems: 16,
      description: 'Trackers, as host:port or multiaddr. Several share the work and stand in for each other.',
    }),
    bootstrapPeers: Type.Array(Type.String(node), {
      section: 'Peers',
      default: [],
      maxItems: 256,
      description: 'Nodes through which the DHT is joined, beside the trackers. Needed where there is no tracker.',
    }),
    maxNeighbours: Type.Integer({
      section: 'Peers',
      minimum: 1,
      maximum: 256,
      default: 16,
      description: 'Peers that chunk maps are exchanged with, for each blob.',
    }),
    stallTimeout: Type.Integer({
      section: 'Peers',
      unit: 'ms',
      minimum: 100,
      maximum: 60_000,
      default: 1_000,
      description:
        'A peer or origin that sends no byte of a chunk for this long is asked no further for it. Where a chunk usually takes ' +
        'longer, a peer has that long, but three times this at most once bytes have come.',
    }),
    uploadRate: Type.Integer({
      section: 'Limits',
      unit: 'bytesPerSecond',
      minimum: 0,
      default: 0,
      description: 'Limit on what this node sends to peers. 0: none.',
    }),
    downloadRate: Type.Integer({
      section: 'Limits',
      unit: 'bytesPerSecond',
      minimum: 0,
      default: 0,
      description: 'Limit on what this node takes from peers. 0: none.',
    }),
    originRate: Type.Integer({
      section: 'Limits',
      unit: 'bytesPerSecond',
      minimum: 0,
      default: 0,
      description: 'Limit on what this node takes from origins. 0: none.',
    }),
    uploadSlots: Type.Integer({
      section: 'Limits',
      minimum: 0,
      maximum: 1_024,
      default: 0,
      description: 'Chunks sent at the same time; further requests are told to come back. 0: chosen by the agent.',
    }),
    downloadSlots: Type.Integer({
      section: 'Limits',
      minimum: 0,
      maximum: 1_024,
      default: 0,
      description:
        'Chunks fetched at the same time, all blobs together; each blob has at least one. 0: chosen by the agent.',
    }),
    originConcurrency: Type.Integer({
      section: 'Limits',
      minimum: 1,
      maximum: 256,
      default: 8,
      description: 'Requests this node has under way at one origin host.',
    }),
    registries: Type.Record(Type.String({ pattern: REGISTRY_PATTERN }), registrySettingsSchema, {
      section: 'Origins',
      mustBe: 'a map from registry host (with an optional port) to its settings',
      default: {},
      maxProperties: 1_024,
      additionalProperties: false,
      description: 'How single registries are reached: endpoint, certificates, credentials. By registry host.',
    }),
    dockerConfigFile: Type.Optional(
      Type.String({
        section: 'Origins',
        format: 'path',
        description:
          "docker's `config.json`, whose credentials and credential helpers are used for registries that " +
          '`registries` has none for.',
      }),
    ),
    allowRegistries: Type.Array(Type.String(rule), {
      section: 'Origins',
      default: ['*'],
      maxItems: 1_024,
      description: 'Registries that a client may name: hosts, `*.domain`, or `*` for all.',
    }),
    denyRegistries: Type.Array(Type.String(rule), {
      section: 'Origins',
      default: [],
      maxItems: 1_024,
      description:
        'Registries that a client may not name, in whichever spelling, even when `allowRegistries` has them; and where no ' +
        'other may lead. The endpoint of one in `registries` may be anywhere.',
    }),
    allowPrivateAddresses: Type.Boolean({
      section: 'Origins',
      default: true,
      description:
        'Whether a registry that a client names may be at a private or loopback address. Link-local and cloud ' +
        'metadata addresses never may.',
    }),
    allowPush: Type.Boolean({
      section: 'Origins',
      default: true,
      description:
        'Whether the mirror endpoint takes pushes and passes them on to the registry that the path names, in the name ' +
        'of the client unless the settings of the registry say otherwise (`pushAs`).',
    }),
    storeQuota: Type.Integer({
      section: 'Store',
      unit: 'bytes',
      minimum: 0,
      default: 0,
      description: 'Size the store may grow to; what was used longest ago goes first. 0: no limit.',
    }),
    containerdContentDirectory: Type.Optional(
      Type.String({
        section: 'Store',
        format: 'path',
        description:
          "containerd's content store, as /var/lib/containerd/io.containerd.content.v1.content. Its blobs are " +
          'served to peers without being stored twice. Read only.',
      }),
    ),
    adminHost: Type.String({
      ...host,
      section: 'Operation',
      default: '127.0.0.1',
      description:
        'Address of health, metrics and the admin API. Who reaches it can start pulls, so anything but a loopback ' +
        'address needs `adminTokenFile` or `adminTlsClientCaFile`.',
    }),
    adminPort: Type.Integer({
      ...port,
      section: 'Operation',
      default: 7703,
      description: 'Port of health, metrics and the admin API.',
    }),
    adminTokenFile: Type.Optional(
      Type.String({
        section: 'Operation',
        format: 'path',
        description:
          'File with the tokens that the admin API asks for, one a line, not readable by others. Health and metrics ' +
          'need none.',
      }),
    ),
    adminTlsCertFile: Type.Optional(
      Type.String({
        section: 'Operation',
        format: 'path',
        description: 'PEM file with the certificate and its chain: the admin API speaks HTTPS.',
      }),
    ),
    adminTlsKeyFile: Type.Optional(
      Type.String({ section: 'Operation', format: 'path', description: 'PEM file with the key of the certificate.' }),
    ),
    adminTlsClientCaFile: Type.Optional(
      Type.String({
        section: 'Operation',
        format: 'path',
        description: 'PEM file with the authorities of clients: who shows no certificate signed by them is refused.',
      }),
    ),
    shutdownGrace: Type.Integer({
      section: 'Operation',
      unit: 'ms',
      minimum: 0,
      maximum: 3_600_000,
      default: 30_000,
      description: 'How long running pulls may take to finish when the agent is told to stop.',
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
    title: 'agent',
    description: 'The daemon on every node.',
    dependentRequired: {
      mirrorTlsCertFile: ['mirrorTlsKeyFile'],
      mirrorTlsKeyFile: ['mirrorTlsCertFile'],
      mirrorTlsClientCaFile: ['mirrorTlsCertFile'],
      adminTlsCertFile: ['adminTlsKeyFile'],
      adminTlsKeyFile: ['adminTlsCertFile'],
      adminTlsClientCaFile: ['adminTlsCertFile'],
    },
  },
)

/** Settings of an agent: durations in ms, sizes in bytes, rates in bytes per second, every default filled in. */
export type AgentConfig = Static<typeof agentConfigSchema>

/** Fills in the defaults, for those who start an agent from code. Does not check what is given. */
export function agentConfig(given: Partial<AgentConfig> & Pick<AgentConfig, 'swarmKeyFiles'>): AgentConfig {
  const defaults = Object.entries(agentConfigSchema.properties).flatMap(([key, property]) =>
    'default' in property ? [[key, structuredClone(property.default)]] : [],
  )
  return { ...(Object.fromEntries(defaults) as Omit<AgentConfig, 'swarmKeyFiles'>), ...given }
}
