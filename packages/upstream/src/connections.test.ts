import assert from 'node:assert/strict'
import http from 'node:http'
import net, { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { InvalidUpstreamOptionError, registryOptionMistakes, type RegistryOptions } from './options.ts'
import { makeCertificates } from './testing-certificates.ts'
import { digestOf } from '@shoal/oci'
import { fails, manifestDigest, requestOptions, sendManifest, startServer, startUpstream, targetAt } from './testing.ts'
import { createUpstream } from './client.ts'

test('TLS: own authority, from a file or inline; without it the error says what to do', async (t) => {
  const certificates = await makeCertificates(t)
  const server = await startServer(t, sendManifest, certificates.server)
  const ask = async (options: RegistryOptions) => {
    const upstream = startUpstream(t, { registries: { [server.host]: options } })
    return (await upstream.headManifest(targetAt(server.host), 'x', requestOptions())).digest
  }
  assert.equal(await ask({ ca: certificates.ca }), manifestDigest)
  assert.equal(await ask({ caFile: join(certificates.folder, 'ca.pem') }), manifestDigest)
  assert.equal(await ask({ insecureSkipVerify: true }), manifestDigest)
  await assert.rejects(ask({ endpoint: server.url }), fails('UNREACHABLE', /not trusted.*caFile/))
  const before = server.seen.length
  await assert.rejects(ask({ endpoint: server.url }), fails('UNREACHABLE'))
  assert.equal(server.seen.length, before)
})

test('TLS: a client certificate is shown to the registry that asks for one', async (t) => {
  const certificates = await makeCertificates(t)
  const server = await startServer(t, sendManifest, {
    ...certificates.server,
    requestCert: true,
    rejectUnauthorized: true,
  })
  const ask = async (options: RegistryOptions) => {
    const upstream = startUpstream(t, { registries: { [server.host]: { ca: certificates.ca, ...options } } })
    return (await upstream.headManifest(targetAt(server.host), 'x', requestOptions())).digest
  }
  assert.equal(await ask(certificates.client), manifestDigest)
  const files = { certFile: join(certificates.folder, 'client.pem'), keyFile: join(certificates.folder, 'client.key') }
  assert.equal(await ask(files), manifestDigest)
  await assert.rejects(ask({}), fails('UNREACHABLE'))
})

test('TLS: a client certificate is not shown where a registry points that nobody has configured', async (t) => {
  const certificates = await makeCertificates(t)
  const guarded = await startServer(t, sendManifest, {
    ...certificates.server,
    requestCert: true,
    rejectUnauthorized: true,
  })
  const pointing = await startServer(t, (_request, response) => {
    response.writeHead(307, { location: `https://${guarded.host}/v2/team/app/manifests/x` }).end()
  })
  const withCertificate = { [guarded.host]: { ca: certificates.ca, ...certificates.client } }
  const ask = async (registries: Record<string, RegistryOptions>) => {
    const upstream = startUpstream(t, { registries: { ...withCertificate, ...registries } })
    return await upstream.headManifest(targetAt(pointing.host), 'x', requestOptions())
  }
  await assert.rejects(ask({}), fails('UNREACHABLE'))
  assert.equal((await ask({ [pointing.host]: {} })).digest, manifestDigest)
})

test('a plain server where TLS is meant, and the endpoint that puts it right', async (t) => {
  const server = await startServer(t, sendManifest)
  const name = 'registry.example.com'
  const ask = async (options: RegistryOptions, registry = name) => {
    const upstream = startUpstream(t, { registries: { [registry]: options } })
    return await upstream.headManifest(targetAt(registry), 'x', requestOptions())
  }
  await assert.rejects(ask({ endpoint: `https://${server.host}` }), fails('UNREACHABLE', /plainHttp/))
  assert.equal((await ask({ endpoint: server.url })).digest, manifestDigest)
  await ask({ endpoint: `${server.url}/artifactory/api/`, repositoryPrefix: '/hub-proxy' }, 'docker.io')
  assert.equal(server.seen.at(-1)?.url, '/artifactory/api/v2/hub-proxy/team/app/manifests/x')
})

test('options that make no sense are refused with their name', () => {
  const cases: [Parameters<typeof createUpstream>[0], RegExp][] = [
    [{ registries: { 'a.example': { endpoint: 'ftp://x' } } }, /registries\.a\.example\.endpoint/],
    [{ registries: { 'a.example': { endpoint: 'https://u:p@x' } } }, /credentials/],
    [{ registries: { 'a.example': { caFile: '/does/not/exist' } } }, /caFile/],
    [{ registries: { 'a.example': { certFile: '/etc/hostname' } } }, /both cert and key/],
    [{ registries: { 'a.example': { password: 'x' } } }, /username/],
    [{ registries: { 'a.example': { repositoryPrefix: 'UP' } } }, /repositoryPrefix/],
    [{ registries: { 'a.example': { proxy: 'proxy' } } }, /proxy/],
    [{ concurrency: 0 }, /concurrency/],
    [{ stallTimeoutMs: Number.NaN }, /stallTimeoutMs/],
    [{ retries: -1 }, /retries/],
    [{ allowRegistries: ['http://x'] }, /allowRegistries/],
    [{ denyRegistries: ['a b'] }, /denyRegistries/],
    [{ proxy: { httpProxy: 'ftp://x' } }, /HTTP_PROXY/],
  ]
  for (const [options, message] of cases) {
    assert.throws(
      () => createUpstream(options),
      (error) => error instanceof InvalidUpstreamOptionError && message.test(error.message),
      String(message),
    )
  }
})

test('what is wrong with the options of registries is told for each of them, by the option', async () => {
  const registries = {
    'good.example': {},
    'a.example': { endpoint: 'https://user:hunter7@x' },
    'b.example': { caFile: '/does/not/exist' },
    'c.example': { password: 'hunter7' },
    'not a host': {},
  }
  const mistakes = await registryOptionMistakes(registries)
  assert.deepEqual(
    mistakes.map(({ key, below }) => [key, ...(below ?? [])].join(' ')),
    ['registries a.example endpoint', 'registries b.example caFile', 'registries c.example', 'registries not a host'],
  )
  assert.match(mistakes[1]?.message ?? '', /^cannot be read: \/does\/not\/exist \(ENOENT\)$/)
  assert.doesNotMatch(JSON.stringify(mistakes), /hunter7/)
})

/** A proxy that sends everything to one port, and remembers what it was asked. */
async function startProxy(t: TestContext, targetPort: number) {
  const asked: string[] = []
  const authorizations: (string | undefined)[] = []
  const proxy = http.createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`)
    authorizations.push(request.headers['proxy-authorization'])
    const { pathname } = new URL(request.url ?? '')
    const onward = { port: targetPort, host: '127.0.0.1', path: pathname, method: request.method }
    http.request(onward, (answer) => answer.pipe(response.writeHead(answer.statusCode ?? 500, answer.headers))).end()
  })
  proxy.on('connect', (request: http.IncomingMessage, socket: net.Socket) => {
    socket.on('error', () => socket.destroy())
    asked.push(`CONNECT ${request.url}`)
    authorizations.push(request.headers['proxy-authorization'])
    if (request.url?.startsWith('refused.')) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n')
      return
    }
    const onward = net.connect(targetPort, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      socket.pipe(onward).pipe(socket)
    })
    onward.on('error', () => socket.destroy())
    socket.on('error', () => onward.destroy())
    t.after(() => onward.destroy())
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    proxy.closeAllConnections()
    proxy.close()
  })
  return { url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, asked, authorizations }
}

test('proxies: CONNECT for TLS, absolute addresses for plain HTTP, login, exceptions', async (t) => {
  const certificates = await makeCertificates(t)
  const server = await startServer(t, sendManifest, certificates.server)
  const plain = await startServer(t, sendManifest)
  const proxy = await startProxy(t, server.port)
  const plainProxy = await startProxy(t, plain.port)
  const upstream = startUpstream(t, {
    proxy: { httpsProxy: proxy.url, httpProxy: plainProxy.url, noProxy: '.internal.example,10.0.0.0/8' },
    registries: {
      'registry.example.com': { insecureSkipVerify: true },
      'plain.example.com': { plainHttp: true },
      'own.example.com': { insecureSkipVerify: true, proxy: proxy.url.replace('//', '//user:p%40ss@') },
      [server.host]: { ca: certificates.ca },
    },
    lookup: (_name, _options, callback) => callback(Object.assign(new Error('x'), { code: 'ENOTFOUND' }), '', 0),
  })
  const ask = (host: string) => upstream.headManifest(targetAt(host), 'x', requestOptions())
  assert.equal((await ask('registry.example.com')).digest, manifestDigest)
  assert.deepEqual(proxy.asked, ['CONNECT registry.example.com:443'])
  assert.equal((await ask('plain.example.com')).digest, manifestDigest)
  assert.deepEqual(plainProxy.asked, ['HEAD http://plain.example.com/v2/team/app/manifests/x'])
  assert.equal((await ask('own.example.com')).digest, manifestDigest)
  assert.equal(proxy.authorizations.at(-1), `Basic ${Buffer.from('user:p@ss').toString('base64')}`)
  await ask(server.host)
  await assert.rejects(ask('reg.internal.example'), fails('UNREACHABLE', /does not resolve/))
  assert.equal(proxy.asked.length, 2)
  await assert.rejects(ask('refused.example.com'), fails('UNREACHABLE', /407/))
  await assert.rejects(ask('169.254.169.254'), fails('REFUSED_BY_POLICY'))
})

test('what fails at a proxy is told of the proxy, without its login', async (t) => {
  const free = net.createServer()
  await new Promise<void>((resolve) => free.listen(0, '127.0.0.1', resolve))
  const { port } = free.address() as AddressInfo
  await new Promise((resolve) => free.close(resolve))
  const hasty = net.createServer((socket) => {
    socket.on('error', () => undefined).once('data', () => socket.destroy())
  })
  await new Promise<void>((resolve) => hasty.listen(0, '127.0.0.1', resolve))
  t.after(() => hasty.close())
  const closing = (hasty.address() as AddressInfo).port
  const cases: [string, RegExp][] = [
    [`http://user:hidden@127.0.0.1:${port}`, new RegExp(`^the proxy 127\\.0\\.0\\.1:${port} refuses connections`)],
    // As curl reads what has no scheme.
    [`user:hidden@127.0.0.1:${port}`, new RegExp(`^the proxy 127\\.0\\.0\\.1:${port} refuses connections`)],
    ['http://user:hidden@proxy.invalid:3128', /(of|about) the proxy proxy\.invalid:3128/],
    [
      `http://user:hidden@127.0.0.1:${closing}`,
      new RegExp(`r\\.example\\.com.* the proxy 127\\.0\\.0\\.1:${closing}\\)`),
    ],
  ]
  for (const [httpsProxy, message] of cases) {
    const upstream = startUpstream(t, { proxy: { httpsProxy }, retries: 0 })
    await assert.rejects(upstream.headManifest(targetAt('r.example.com'), 'x', requestOptions()), (error: Error) => {
      assert.match(error.message, message)
      assert.doesNotMatch(error.message, /user|hidden/)
      return true
    })
  }
})

test('a proxy that accepts and says nothing is given up as what cannot be connected to', async (t) => {
  const sockets: net.Socket[] = []
  const proxy = net.createServer((socket) => sockets.push(socket.on('error', () => undefined).resume()))
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    proxy.close()
  })
  const upstream = startUpstream(t, {
    proxy: { httpsProxy: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}` },
    connectTimeoutMs: 200,
    retries: 0,
  })
  // Without a limit, the signal of the request would end it.
  await assert.rejects(upstream.headManifest(targetAt('r.example.com'), 'x', requestOptions()), fails('TIMEOUT'))
  assert.equal(sockets.length, 1)
})

test('a client that is closed sends nothing any more, not even what waited for its turn', async (t) => {
  const server = await startServer(t, (_request, response) => {
    response.writeHead(200, { 'content-length': 4 })
    response.write('ab')
  })
  const upstream = startUpstream(t, { concurrency: 1, retries: 0 })
  const open = () => upstream.openBlob(targetAt(server.host), digestOf('x'), undefined, requestOptions())
  await open()
  const waiting = assert.rejects(open(), fails('UNREACHABLE', /closed/))
  await upstream.close()
  await waiting
  await assert.rejects(open(), fails('UNREACHABLE', /closed/))
  assert.equal(server.seen.length, 1)
})
