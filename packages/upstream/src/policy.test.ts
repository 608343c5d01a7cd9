import assert from 'node:assert/strict'
import type { LookupAddress } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { addressKind, checkHost, guardedLookup, isLoopbackHost } from './addresses.ts'
import { ProxyRules, proxyOptionsFromEnvironment } from './proxies.ts'
import { RegistryRules } from './registry-rules.ts'
import { fails, requestOptions, sendManifest, startServer, startUpstream, targetAt } from './testing.ts'

const resolvingTo =
  (...addresses: string[]): LookupFunction =>
  (_name, options, callback) => {
    const found: LookupAddress[] = addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
    if (options.all === true) callback(null, found)
    else callback(null, found[0]?.address ?? '', found[0]?.family)
  }

test('what an address is', () => {
  const cases: [string, string][] = [
    ['8.8.8.8', 'public'],
    ['2606:4700::1111', 'public'],
    ['10.1.2.3', 'private'],
    ['172.31.0.1', 'private'],
    ['192.168.1.1', 'private'],
    ['100.64.0.1', 'private'],
    ['fd12::1', 'private'],
    ['127.0.0.1', 'loopback'],
    ['127.9.9.9', 'loopback'],
    ['::1', 'loopback'],
    ['::ffff:127.0.0.1', 'loopback'],
    ['::ffff:10.0.0.1', 'private'],
    ['::7f00:1', 'loopback'],
    ['64:ff9b::7f00:1', 'loopback'],
    ['2002:7f00:1::', 'loopback'],
    ['169.254.0.1', 'forbidden'],
    ['169.254.169.254', 'forbidden'],
    ['::ffff:169.254.169.254', 'forbidden'],
    ['64:ff9b::a9fe:a9fe', 'forbidden'],
    ['64:ff9b:1::a9fe:a9fe', 'forbidden'],
    ['2002:a9fe:a9fe::1', 'forbidden'],
    ['fe80::1', 'forbidden'],
    ['fe80::1%eth0', 'forbidden'],
    ['febf::1', 'forbidden'],
    ['fd00:ec2::254', 'forbidden'],
    ['fd00:ec2::23', 'forbidden'],
    ['fd00:42::42', 'forbidden'],
    ['fd00:0ec2:0:0:0:0:0:0254', 'forbidden'],
    ['100.100.100.200', 'forbidden'],
    ['168.63.129.16', 'forbidden'],
    ['0.0.0.0', 'forbidden'],
    ['0.1.2.3', 'forbidden'],
    ['::', 'forbidden'],
    ['224.0.0.1', 'forbidden'],
    ['255.255.255.255', 'forbidden'],
    ['ff02::1', 'forbidden'],
    ['not an address', 'forbidden'],
  ]
  for (const [address, kind] of cases) assert.equal(addressKind(address), kind, address)
})

test('no spelling of a link-local address gets through', () => {
  const octet = fc.integer({ min: 0, max: 255 })
  fc.assert(
    fc.property(octet, octet, fc.constantFrom('dotted', 'decimal', 'hex', 'octal', 'mapped', 'nat64'), (c, d, way) => {
      const number = (169 * 256 + 254) * 65536 + c * 256 + d
      const hex = (value: number): string => value.toString(16)
      const host = {
        dotted: `169.254.${c}.${d}`,
        decimal: String(number),
        hex: `0x${hex(number)}`,
        octal: `0251.0376.${c}.${d}`,
        mapped: `[::ffff:a9fe:${hex(c * 256 + d)}]`,
        nat64: `[64:ff9b::a9fe:${hex(c * 256 + d)}]`,
      }[way]
      assert.throws(() => checkHost(host, { allowPrivate: true, allowLoopback: true }), host)
    }),
  )
})

test('names of this node', () => {
  for (const host of ['localhost', 'LOCALHOST', 'a.localhost', '127.0.0.1', '[::1]', '2130706433', 'localhost.']) {
    assert.equal(isLoopbackHost(host), true, host)
  }
  for (const host of ['localhost.example', 'example.com', '10.0.0.1', ''])
    assert.equal(isLoopbackHost(host), false, host)
})

test('addresses are checked again when a name has been resolved, so rebinding gains nothing', async (t) => {
  const server = await startServer(t, sendManifest)
  const name = `registry.example.com:${server.port}`
  let addresses = ['169.254.169.254']
  const upstream = startUpstream(t, {
    registries: { [name]: { plainHttp: true } },
    lookup: (host, options, callback) => resolvingTo(...addresses)(host, options, callback),
  })
  upstream.checkAllowed(name)
  const ask = () => upstream.headManifest(targetAt(name), 'x', requestOptions())
  await assert.rejects(ask(), fails('REFUSED_BY_POLICY', /169\.254\.169\.254.*link-local/))
  addresses = ['::ffff:169.254.169.254', 'fe80::1']
  await assert.rejects(ask(), fails('REFUSED_BY_POLICY'))
  assert.equal(server.seen.length, 0)
  // Of several addresses, only the good ones are used.
  addresses = ['169.254.169.254', '127.0.0.1']
  await ask()
  assert.equal(server.seen.length, 1)
})

test('private addresses can be closed to registries that only a client named', async (t) => {
  const server = await startServer(t, sendManifest)
  const strict = startUpstream(t, { allowPrivateAddresses: false, lookup: resolvingTo('10.0.0.1') })
  assert.throws(() => strict.checkAllowed(server.host), fails('REFUSED_BY_POLICY', /loopback.*configuration/))
  assert.throws(() => strict.checkAllowed('10.0.0.1:5000'), fails('REFUSED_BY_POLICY', /private/))
  assert.throws(() => strict.checkAllowed('localhost:5000'), fails('REFUSED_BY_POLICY', /this node/))
  const resolved = strict.headManifest(targetAt('registry.example.com'), 'x', requestOptions())
  await assert.rejects(resolved, fails('REFUSED_BY_POLICY', /10\.0\.0\.1.*private/))
  const named = startUpstream(t, { allowPrivateAddresses: false, registries: { [server.host]: {} } })
  await named.headManifest(targetAt(server.host), 'x', requestOptions())
  assert.equal(server.seen.length, 1)
})

test('checkAllowed: rules, addresses and names that are none', (t) => {
  const upstream = startUpstream(t, {
    allowRegistries: ['docker.io', '*.example.com'],
    denyRegistries: ['bad.example.com'],
  })
  upstream.checkAllowed('registry-1.docker.io')
  upstream.checkAllowed('good.example.com')
  for (const registry of ['ghcr.io', 'bad.example.com', 'bad.example.com:5000', '', 'a/b', '169.254.169.254']) {
    assert.throws(() => upstream.checkAllowed(registry), fails('REFUSED_BY_POLICY'), registry)
  }
  assert.throws(() => startUpstream(t).checkAllowed('169.254.169.254:80'), fails('REFUSED_BY_POLICY', /link-local/))
  assert.throws(() => startUpstream(t).checkAllowed('metadata.google.internal'), fails('REFUSED_BY_POLICY', /metadata/))
})

test('what is not allowed is not asked', async (t) => {
  const server = await startServer(t, sendManifest)
  const upstream = startUpstream(t, { allowRegistries: ['docker.io'] })
  const asked = upstream.headManifest(targetAt(server.host), 'x', requestOptions())
  await assert.rejects(asked, fails('REFUSED_BY_POLICY', /allowRegistries/))
  assert.equal(server.seen.length, 0)
})

test('allow and deny rules', () => {
  const cases: [allow: string[], deny: string[], registry: string, allowed: boolean][] = [
    [['*'], [], 'ghcr.io', true],
    [['*'], [], '[::1]:5000', true],
    [[], [], 'ghcr.io', false],
    [['ghcr.io'], [], 'ghcr.io', true],
    [['GHCR.io'], [], 'ghcr.io', true],
    [['ghcr.io'], [], 'ghcr.io:5000', false],
    [['ghcr.io:5000'], [], 'ghcr.io:5000', true],
    [['ghcr.io:5000'], [], 'ghcr.io', false],
    [['ghcr.io:*'], [], 'ghcr.io:5000', true],
    [['ghcr.io:*'], [], 'ghcr.io', true],
    [['index.docker.io'], [], 'docker.io', true],
    [['*.example.com'], [], 'a.b.example.com', true],
    [['*.example.com'], [], 'example.com', false],
    [['*.example.com'], [], 'badexample.com', false],
    [['*.example.com'], [], 'a.example.com:5000', false],
    [['*.example.com:*'], [], 'a.example.com:5000', true],
    [['[::1]:5000'], [], '[::1]:5000', true],
    [['[::1]:*'], [], '[::1]:5000', true],
    [['[::1]'], [], '[::1]:5000', false],
    [['*'], ['ghcr.io'], 'ghcr.io', false],
    [['*'], ['ghcr.io'], 'ghcr.io:5000', false],
    [['*'], ['ghcr.io:5000'], 'ghcr.io', true],
    [['*'], ['*.example.com'], 'a.example.com:5000', false],
    [['*'], ['*.example.com'], 'example.com', true],
    [['ghcr.io'], ['*'], 'ghcr.io', false],
  ]
  for (const [allow, deny, registry, allowed] of cases) {
    const refusal = new RegistryRules(allow, deny).refusal(registry)
    assert.equal(refusal === undefined, allowed, `${allow} ${deny} ${registry} ${refusal}`)
  }
})

test('what is denied is the host that would be asked, however it is written', (t) => {
  const cases: [deny: string, registry: string, allowed: boolean][] = [
    ['docker.io', 'registry-1.docker.io', false],
    ['docker.io', 'registry-1.docker.io:443', false],
    ['docker.io', 'index.docker.io:443', false],
    ['docker.io', 'docker.io:5000', false],
    ['registry-1.docker.io:443', 'docker.io', false],
    ['docker.io:5000', 'docker.io', true],
    ['*.docker.io', 'docker.io', false],
    ['docker.io', 'hub.docker.io', true],
    ['10.0.0.5', '10.0.0.5', false],
    ['10.0.0.5', '10.5', false],
    ['10.0.0.5', '0xa000005', false],
    ['10.0.0.5', '[::ffff:a00:5]', false],
    ['10.0.0.5', '[64:ff9b::a00:5]:5000', false],
    ['10.0.0.5', '10.0.0.6', true],
    ['10.5', '10.0.0.5', false],
    ['[::ffff:a00:5]', '10.0.0.5', false],
    ['[2001:db8:0:0::1]', '[2001:db8::1]', false],
    ['10.0.0.5:443', '10.0.0.5', false],
    ['10.0.0.5:443', '10.5', false],
    ['10.0.0.5:443', '10.0.0.5:5000', true],
    ['10.0.0.5:80', '10.0.0.5', true],
    ['127.0.0.1:80', '127.1', false],
  ]
  for (const [deny, registry, allowed] of cases) {
    const check = () => startUpstream(t, { denyRegistries: [deny] }).checkAllowed(registry)
    if (allowed) check()
    else assert.throws(check, fails('REFUSED_BY_POLICY', /denyRegistries/), `${deny} ${registry}`)
  }
  // Other spellings are denied, not allowed.
  assert.notEqual(new RegistryRules(['10.0.0.5'], []).refusal('10.5'), undefined)
  assert.notEqual(new RegistryRules(['docker.io'], []).refusal('registry-1.docker.io:443'), undefined)
})

test('a registry with an endpoint of its own may be asked when clients may not name the endpoint', async (t) => {
  const mirror = await startServer(t, sendManifest)
  const upstream = startUpstream(t, {
    registries: { 'docker.io': { endpoint: mirror.url }, 'other.example': { endpoint: mirror.url } },
    denyRegistries: [mirror.host, 'other.example:*'],
  })
  await upstream.headManifest(targetAt('docker.io'), 'x', requestOptions())
  assert.equal(mirror.seen.length, 1)
  for (const denied of [mirror.host, 'other.example']) {
    assert.throws(() => upstream.checkAllowed(denied), fails('REFUSED_BY_POLICY', /denyRegistries/), denied)
  }
})

test('guardedLookup gives one address where one is asked for', async () => {
  const lookup = guardedLookup({ allowPrivate: true, allowLoopback: false }, resolvingTo('127.0.0.1', '10.0.0.1'))
  const found = await new Promise((resolve) => lookup('x', {}, (...answer) => resolve(answer)))
  assert.deepEqual(found, [null, '10.0.0.1', 4])
})

test('NO_PROXY as Go understands it', () => {
  const options = { HTTP_PROXY: 'proxy:3128', https_proxy: 'http://proxy:3129' }
  const noProxy =
    'example.com, .below.example ,*.star.example 10.0.0.0/8,192.168.1.1,ported.example:5000,[fd00::1],fd01::/16'
  const rules = new ProxyRules(proxyOptionsFromEnvironment({ ...options, NO_PROXY: noProxy }))
  const cases: [string, string | undefined][] = [
    ['https://ghcr.io', 'http://proxy:3129'],
    ['http://ghcr.io', 'http://proxy:3128'],
    ['https://example.com', undefined],
    ['https://a.example.com', undefined],
    ['https://badexample.com', 'http://proxy:3129'],
    ['https://below.example', 'http://proxy:3129'],
    ['https://a.below.example', undefined],
    ['https://star.example', 'http://proxy:3129'],
    ['https://a.star.example', undefined],
    ['https://10.1.2.3', undefined],
    ['https://11.1.2.3', 'http://proxy:3129'],
    ['https://192.168.1.1', undefined],
    ['https://ported.example:5000', undefined],
    ['https://ported.example', 'http://proxy:3129'],
    ['https://[fd00::1]', undefined],
    ['https://[fd01::9]', undefined],
    ['https://[fd02::9]', 'http://proxy:3129'],
    ['https://127.0.0.1:5000', undefined],
    ['https://localhost', undefined],
    ['https://[::1]', undefined],
  ]
  for (const [url, proxy] of cases) assert.equal(rules.proxyFor(new URL(url)), proxy, url)
  assert.equal(new ProxyRules({ httpsProxy: 'http://p', noProxy: '*' }).proxyFor(new URL('https://x')), undefined)
  assert.equal(new ProxyRules({}).proxyFor(new URL('https://x')), undefined)
})

test('a registry is named by its settings or by a rule, and not by a rule for all', (t) => {
  const upstream = startUpstream(t, {
    registries: { 'my-registry:9000': {} },
    allowRegistries: ['*', 'ghcr.io', '*.example.com', 'any-port.test:*'],
  })
  for (const named of ['my-registry:9000', 'ghcr.io', 'a.example.com', 'any-port.test:5000']) {
    assert.ok(upstream.isNamed(named), named)
  }
  for (const other of ['my-registry', 'my-registry:9001', 'ghcr.io:5000', 'example.com', 'docker.io', 'evil.test']) {
    assert.ok(!upstream.isNamed(other), other)
  }
})
