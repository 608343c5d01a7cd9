export * from './push.ts'
export * from './upstream.ts'
export { createUpstream } from './client.ts'
export { InvalidUpstreamOptionError, type ProxyOptions, type RegistryOptions, type UpstreamOptions } from './options.ts'
