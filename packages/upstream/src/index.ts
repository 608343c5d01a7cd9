export * from './push.ts'
export * from './upstream.ts'
export { createUpstream } from './client.ts'
export { basicAuthorization, parseBasicAuthorization } from './credentials.ts'
export {
  InvalidRegistryOptionError,
  InvalidUpstreamOptionError,
  registryOptionMistakes,
  type ProxyOptions,
  type RegistryOptions,
  type UpstreamOptions,
} from './options.ts'
export { loginKeys, reachRules, tlsKeys, urlFormat } from './reach-schema.ts'
