import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { agentConfigSchema } from '@shoal/agent/config'
import { registryConfigSchema } from '@shoal/origin/config'
import { trackerConfigSchema } from '@shoal/tracker/config'
import { keysOf } from './keys.ts'
import { loadConfig, type LoadOptions } from './load.ts'
import { ConfigError } from './mistakes.ts'

let directory = ''
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'shoal-config-'))
})
after(() => rm(directory, { recursive: true }))

const REQUIRED = 'swarmKeyFiles: [k]\n'

async function load(yaml: string, more: Partial<LoadOptions> = {}) {
  await writeFile(join(directory, 'agent.yaml'), yaml)
  return loadConfig({
    schema: agentConfigSchema,
    file: 'agent.yaml',
    workingDirectory: directory,
    environment: {},
    ...more,
  })
}

/** The lines of the error that such a file gives. */
async function mistakes(yaml: string, more: Partial<LoadOptions> = {}): Promise<string[]> {
  try {
    await load(yaml, more)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error))
    return error.message.split('\n')
  }
  return assert.fail('it was accepted')
}

describe('loadConfig', () => {
  it('fills in defaults and normalises units', async () => {
    const { values } = await load(`${REQUIRED}shutdownGrace: 1m30s\nstoreQuota: 10GiB\nuploadRate: 100mbit\n`)
    assert.equal(values['mirrorPort'], 7700)
    assert.equal(values['shutdownGrace'], 90_000)
    assert.equal(values['storeQuota'], 10 * 2 ** 30)
    assert.equal(values['uploadRate'], 12_500_000)
    assert.deepEqual(values['trackers'], [])
  })

  it('resolves paths against the folder of the file, and of flags against the working directory', async () => {
    const yaml = `${REQUIRED}dataDirectory: data\nregistries: {a.io: {caFile: ca.pem}}\n`
    const { values } = await load(yaml, { flags: { dockerConfigFile: 'd.json' }, workingDirectory: directory })
    assert.equal(values['dataDirectory'], join(directory, 'data'))
    assert.deepEqual(values['swarmKeyFiles'], [join(directory, 'k')])
    assert.deepEqual(values['registries'], { 'a.io': { caFile: join(directory, 'ca.pem') } })
    assert.equal(values['dockerConfigFile'], join(directory, 'd.json'))
  })

  it('prefers flag to environment to file to default', async () => {
    const environment = { SHOAL_MIRROR_PORT: '2', SHOAL_ZONE: 'environment' }
    const { values } = await load(`${REQUIRED}mirrorPort: 1\nzone: file\nadminPort: 9\n`, {
      environment,
      flags: { mirrorPort: '3' },
    })
    assert.equal(values['mirrorPort'], 3)
    assert.equal(values['zone'], 'environment')
    assert.equal(values['adminPort'], 9)
    assert.equal(values['p2pPort'], 7701)
  })

  it('takes a key without a value, and an empty variable, as not given', async () => {
    const { values } = await load(`${REQUIRED}trackers:\nzone: a\n`, { environment: { SHOAL_ZONE: '' } })
    assert.deepEqual(values['trackers'], [])
    assert.equal(values['zone'], 'a')
  })

  it('maps variables and flags to every kind of key', async () => {
    const { values } = await load('', {
      environment: {
        SHOAL_SWARM_KEY_FILES: '/a, /b',
        SHOAL_ALLOW_PRIVATE_ADDRESSES: 'false',
        SHOAL_P2P_PORT: '1',
        SHOAL_TAG_CACHE_TTL: '10s',
        SHOAL_LOG_LEVEL: 'debug',
      },
      flags: { trackers: ['a:1,b:2', 'c:3'] },
    })
    assert.deepEqual(values['swarmKeyFiles'], ['/a', '/b'])
    assert.equal(values['allowPrivateAddresses'], false)
    assert.equal(values['p2pPort'], 1)
    assert.equal(values['tagCacheTtl'], 10_000)
    assert.equal(values['logLevel'], 'debug')
    assert.deepEqual(values['trackers'], ['a:1', 'b:2', 'c:3'])
  })

  const wrong: [string, string, string][] = [
    ['an unknown key', 'mirorPort: 1', 'agent.yaml:2:1: mirorPort is not a known key: did you mean mirrorPort?'],
    [
      'a key in snake case',
      'mirror_port: 1',
      'agent.yaml:2:1: mirror_port is not a known key: did you mean mirrorPort?',
    ],
    ['an unknown key that resembles none', 'colour: 1', 'agent.yaml:2:1: colour is not a known key'],
    [
      'a text for a number',
      'uploadSlots: "5"',
      'agent.yaml:2:14: uploadSlots must be a whole number, not "5": leave the quotes out',
    ],
    [
      'a number for a text',
      'dockerConfigFile: 5',
      'agent.yaml:2:19: dockerConfigFile must be a text, not 5: put it in quotes',
    ],
    [
      'a word for a boolean',
      'allowPrivateAddresses: yes',
      'agent.yaml:2:24: allowPrivateAddresses must be true or false, not "yes"',
    ],
    ['a text for a list', 'trackers: a:1', 'agent.yaml:2:11: trackers must be a list, not "a:1": write ["a:1"]'],
    [
      'a list for a map',
      'registries: [a]',
      'agent.yaml:2:13: registries must be a map from registry host (with an optional port) to its settings, not a list',
    ],
    ['too much', 'uploadSlots: 5000', 'agent.yaml:2:14: uploadSlots must be at most 1024, not 5000'],
    ['too short a time', 'stallTimeout: 1ms', 'agent.yaml:2:15: stallTimeout must be at least 100ms, not 1ms'],
    [
      'no port',
      'p2pPort: 70000',
      'agent.yaml:2:10: p2pPort must be a port from 0 to 65535 (0 takes a free one), not 70000',
    ],
    [
      'half a port',
      'p2pPort: 1.5',
      'agent.yaml:2:10: p2pPort must be a port from 0 to 65535 (0 takes a free one), not 1.5',
    ],
    [
      'a duration without a unit',
      'stallTimeout: 30',
      'agent.yaml:2:15: stallTimeout must be a duration such as 500ms, 30s, 5m, 1h or 1m30s, not 30: say which unit',
    ],
    [
      'no choice',
      'logLevel: inf',
      'agent.yaml:2:11: logLevel must be one of fatal, error, warn, info, debug, trace, silent, not "inf" (did you mean info?)',
    ],
    [
      'an entry of a list',
      'trackers: [a:1, nowhere]',
      'agent.yaml:2:17: trackers[1] must be host:port or a multiaddr such as /ip4/10.0.0.1/tcp/7710, not "nowhere"',
    ],
    ['an empty path', 'dataDirectory: ""', 'agent.yaml:2:16: dataDirectory must be the path of a file or directory'],
    ['no registry', 'registries: {"a b": {}}', 'agent.yaml:2:14: registries."a b" is not a registry host'],
    ['a prototype', '__proto__: {a: 1}', 'agent.yaml:2:1: __proto__ is not a known key'],
    [
      'an unknown setting of a registry',
      'registries: {a.io: {pasword: x}}',
      'agent.yaml:2:21: registries."a.io".pasword is not a known key: did you mean password?',
    ],
    [
      'half a client certificate',
      'registries: {a.io: {certFile: x}}',
      'agent.yaml:2:21: registries."a.io".certFile needs keyFile beside it',
    ],
    [
      'two passwords',
      'registries: {a.io: {username: u, password: a, passwordFile: b}}',
      'agent.yaml:2:20: registries."a.io" must be given only one of password and passwordFile',
    ],
    [
      'a URL of another kind',
      'registries: {a.io: {endpoint: "ftp://a"}}',
      'agent.yaml:2:31: registries."a.io".endpoint must be a URL that starts with http:// or https://, not "ftp://a"',
    ],
    [
      'a key given twice',
      'swarmKeyFiles: [b]',
      'agent.yaml:2:1: swarmKeyFiles is given twice, first at agent.yaml:1:1',
    ],
  ]
  for (const [name, line, message] of wrong) {
    it(`refuses ${name}, by place and key`, async () => {
      assert.deepEqual(await mistakes(`${REQUIRED}${line}\n`), [message])
    })
  }

  it('names every mistake at once, in the order of the file, what is missing last', async () => {
    const lines = await mistakes('zonee: a\nmirrorPort: x\nstoreQuota: 5 apples\nzonee: b\n', {
      environment: { SHOAL_P2P_PORT: 'many' },
      flags: { logFormat: 'xml' },
    })
    assert.deepEqual(
      lines.map((line) => line.split(' ').slice(0, 2).join(' ')),
      [
        'agent.yaml:1:1: zonee',
        'agent.yaml:2:13: mirrorPort',
        'agent.yaml:3:13: storeQuota',
        'agent.yaml:4:1: zonee',
        'SHOAL_P2P_PORT: p2pPort',
        '--log-format: logFormat',
        'agent.yaml: swarmKeyFiles',
      ],
    )
    assert.match(lines.at(-1) ?? '', /is missing: .*SHOAL_SWARM_KEY_FILES.*--swarm-key-files/)
  })

  it('takes a required key without a value for one that is missing', async () => {
    const [mistake, ...others] = await mistakes('swarmKeyFiles:\nzone:\n')
    assert.match(mistake ?? '', /^agent.yaml: swarmKeyFiles is missing/)
    assert.deepEqual(others, [])
  })

  it('refuses an empty list where one entry is needed', async () => {
    assert.deepEqual(await mistakes('swarmKeyFiles: []\n'), [
      'agent.yaml:1:16: swarmKeyFiles must have at least one entry',
    ])
  })

  it('tells a mistake of the file even where a flag overrides it', async () => {
    assert.deepEqual(await mistakes(`${REQUIRED}uploadSlots: -1\n`, { flags: { uploadSlots: '1' } }), [
      'agent.yaml:2:14: uploadSlots must be at least 0, not -1',
    ])
  })

  it('never shows a secret', async () => {
    const secret = 's3cr3t'
    const yaml = `${REQUIRED}registries:\n  a.io: {username: 1, password: [${secret}], proxy: "${secret}"}\n`
    const text = (await mistakes(yaml)).join('\n')
    assert.doesNotMatch(text, new RegExp(secret))
    assert.match(text, /password must be a text/)
    assert.match(text, /proxy must be a URL/)
  })

  it('asks for the other half of a certificate, whichever source it is missing from', async () => {
    const environment = { SHOAL_TLS_CERT_FILE: '/c.pem' }
    const options: LoadOptions = { schema: registryConfigSchema, environment }
    await assert.rejects(
      loadConfig(options),
      /^ConfigError: SHOAL_TLS_CERT_FILE: tlsCertFile needs tlsKeyFile beside it$/,
    )
    await loadConfig({ ...options, flags: { tlsKeyFile: '/k.pem' } })
  })

  it('warns of a variable that is none, but not of those of other daemons or of Kubernetes', async () => {
    const { warnings, values } = await load(REQUIRED, {
      environment: {
        SHOAL_MIROR_PORT: '1',
        SHOAL_HTTP_PORT: '1',
        SHOAL_CONFIG: 'x',
        SHOAL_TRACKER_SERVICE_HOST: '10.0.0.1',
        SHOAL_TRACKER_PORT_7711_TCP_ADDR: '10.0.0.1',
        SHOAL_TRACKER_PORT: 'tcp://10.0.0.1:7711',
        SHOAL_ADMIN_PORT: 'tcp://10.0.0.1:7703',
      },
      otherSchemas: [trackerConfigSchema],
    })
    assert.equal(values['adminPort'], 7703)
    assert.equal(warnings.length, 2)
    assert.match(warnings[0] ?? '', /SHOAL_MIROR_PORT .*did you mean SHOAL_MIRROR_PORT/)
    assert.match(warnings[1] ?? '', /SHOAL_ADMIN_PORT looks like a Kubernetes service link/)
  })

  it('reports only the form of a file that is not YAML', async () => {
    const lines = await mistakes('a: [\n')
    assert.ok(
      lines.length > 0 && lines.every((line) => /^agent\.yaml:\d+:\d+: not valid YAML/.test(line)),
      lines.join('\n'),
    )
  })
})

describe('a list of maps', () => {
  const registry = (yaml: string) => load(yaml, { schema: registryConfigSchema })
  const wrong = (yaml: string) => mistakes(yaml, { schema: registryConfigSchema })

  it('comes from the file, with defaults around it', async () => {
    const { values } = await registry(
      'htpasswdFile: h\naccessRules:\n  - repositories: [team/**]\n    users: [ann]\n    actions: [pull]\n',
    )
    assert.deepEqual(values['accessRules'], [{ repositories: ['team/**'], users: ['ann'], actions: ['pull'] }])
    assert.equal(values['htpasswdFile'], join(directory, 'h'))
  })

  it('is named by entry and place where it is wrong', async () => {
    const rule = 'accessRules:\n  - repositories: [team/**]\n    users: [ann]\n'
    assert.deepEqual(await wrong(`htpasswdFile: h\n${rule}`), [
      'agent.yaml:3:5: accessRules[0] needs actions beside it',
    ])
    assert.deepEqual(await wrong(`htpasswdFile: h\n${rule}    actions: [pul]\n`), [
      'agent.yaml:5:15: accessRules[0].actions[0] must be one of pull, push, delete, not "pul" (did you mean pull?)',
    ])
    assert.deepEqual(await wrong('htpasswdFile: h\naccessRules: [everybody]\n'), [
      'agent.yaml:2:15: accessRules[0] must be a map of keys and values, not "everybody"',
    ])
  })

  it('has no variable and no flag', () => {
    const key = keysOf(registryConfigSchema).find(({ name }) => name === 'accessRules')
    assert.deepEqual([key?.kind, key?.variable, key?.flag], ['entries', undefined, undefined])
  })
})

describe('keysOf', () => {
  for (const [name, schema] of Object.entries({ agentConfigSchema, trackerConfigSchema, registryConfigSchema })) {
    it(`finds for every key of ${name} a description, a section and a default that passes its own check`, async () => {
      const keys = keysOf(schema)
      for (const key of keys) {
        assert.ok(key.schema.description, key.name)
        assert.ok(key.schema.section, key.name)
      }
      const required = Object.fromEntries(keys.filter((key) => key.isRequired).map((key) => [key.name, ['/k']]))
      const { values } = await loadConfig({ schema, environment: {}, flags: required })
      const text = Object.fromEntries(
        Object.entries(values)
          .filter(([key]) => keys.find(({ name: known, variable }) => known === key && variable !== undefined))
          .filter(([, value]) => !(Array.isArray(value) && value.length === 0))
          // A duration in a flag needs its unit.
          .map(([key, value]) => [
            key,
            keys.find((known) => known.name === key)?.schema.unit === 'ms' ? `${value}ms` : String(value),
          ]),
      )
      assert.deepEqual((await loadConfig({ schema, environment: {}, flags: text })).values, values)
    })
  }

  it('names variable and flag after the key', () => {
    const key = keysOf(agentConfigSchema).find(({ name }) => name === 'p2pPort')
    assert.deepEqual([key?.variable, key?.flag], ['SHOAL_P2P_PORT', '--p2p-port'])
    const map = keysOf(agentConfigSchema).find(({ name }) => name === 'registries')
    assert.deepEqual([map?.variable, map?.flag], [undefined, undefined])
  })
})
