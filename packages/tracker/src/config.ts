// Every key a tracker can be configured with. The command line, the environment, the reference in docs/ and the checks
// of a configuration file all follow from this schema. Annotations: see the agent's config.ts.
import { Type, type Static } from '@shoal/oci'

const HOST_PATTERN = '^([0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,40}|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)$'
const NODE_PATTERN = '^(/\\S+|(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):[0-9]{1,5})$'

const host = { pattern: HOST_PATTERN, mustBe: 'a host name or an IP address' }
const node = { pattern: NODE_PATTERN, mustBe: 'host:port or a multiaddr such as /ip4/10.0.0.1/tcp/7710' }
const port = { minimum: 0, maximum: 65_535, mustBe: 'a port from 0 to 65535 (0 takes a free one)' }

/** All keys of a tracker. */
export const trackerConfigSchema = Type.Object(
  {
    dataDirectory: Type.String({
      section: 'Node',
      format: 'path',
      default: '/var/lib/shoal/tracker',
      description: "Where the tracker's identity is kept. What it knows of swarms is in memory only.",
    }),
    swarmKeyFiles: Type.Array(Type.String({ format: 'path' }), {
      section: 'Node',
      minItems: 1,
      maxItems: 8,
      description:
        'Files with the swarm keys that admit a node to the cluster (`shoal key new`). The first is used, all are ' +
        'accepted: so a key is changed without an outage.',
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
      default: 7710,
      description: 'Port of the control plane: what agents name in `trackers`.',
    }),
    announceAddresses: Type.Array(Type.String(host), {
      section: 'Peers',
      default: [],
      maxItems: 16,
      description:
        'Host name or IP address told to other nodes, of several the first. Empty: all addresses of the node but loopback.',
    }),
    bootstrapPeers: Type.Array(Type.String(node), {
      section: 'Peers',
      default: [],
      maxItems: 256,
      description: 'Nodes through which the DHT is joined: the other trackers, if there are any.',
    }),
    originConcurrency: Type.Integer({
      section: 'Coordination',
      minimum: 1,
      maximum: 1_024,
      default: 32,
      description:
        'Leases that may be out at the same time for one origin host, at most. While chunks of the origin take long, ' +
        'the tracker holds to fewer (docs/decisions/0002-swarm-policy.md).',
    }),
    leaseIdle: Type.Integer({
      section: 'Coordination',
      unit: 'ms',
      minimum: 100,
      maximum: 60_000,
      default: 2_000,
      description: 'A lease whose holder makes no progress for this long goes to another node.',
    }),
    tagTtl: Type.Integer({
      section: 'Coordination',
      unit: 'ms',
      minimum: 0,
      maximum: 3_600_000,
      default: 3_000,
      description:
        'How long the answer of an origin to a tag, found alike by two nodes, is passed on to others that ask the same.',
    }),
    httpHost: Type.String({
      ...host,
      section: 'Operation',
      default: '0.0.0.0',
      description: 'Address of health, metrics and API. What changes something needs `httpTokenFile`.',
    }),
    httpPort: Type.Integer({
      ...port,
      section: 'Operation',
      default: 7711,
      description: 'Port of health, metrics and API.',
    }),
    httpTokenFile: Type.Optional(
      Type.String({
        section: 'Operation',
        format: 'path',
        description:
          'File with the tokens that the API asks for, one a line, not readable by others. Without it the API only ' +
          'tells, and changes nothing.',
      }),
    ),
    httpReadsNeedToken: Type.Boolean({
      section: 'Operation',
      default: false,
      description:
        'Whether the API asks for a token before it tells anything, too. Health and metrics need none in any case.',
    }),
    httpTlsCertFile: Type.Optional(
      Type.String({
        section: 'Operation',
        format: 'path',
        description: 'PEM file with the certificate and its chain: the HTTP side speaks HTTPS.',
      }),
    ),
    httpTlsKeyFile: Type.Optional(
      Type.String({ section: 'Operation', format: 'path', description: 'PEM file with the key of the certificate.' }),
    ),
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
    title: 'tracker',
    description: 'The service that knows who has and who wants what.',
    dependentRequired: { httpTlsCertFile: ['httpTlsKeyFile'], httpTlsKeyFile: ['httpTlsCertFile'] },
  },
)

/** Settings of a tracker: durations in ms, every default filled in. */
export type TrackerConfig = Static<typeof trackerConfigSchema>

/** Fills in the defaults, for those who start a tracker from code. Does not check what is given. */
export function trackerConfig(given: Partial<TrackerConfig> & Pick<TrackerConfig, 'swarmKeyFiles'>): TrackerConfig {
  const defaults = Object.entries(trackerConfigSchema.properties).flatMap(([key, property]) =>
    'default' in property ? [[key, structuredClone(property.default)]] : [],
  )
  return { ...(Object.fromEntries(defaults) as Omit<TrackerConfig, 'swarmKeyFiles'>), ...given }
}
