export * from './config.ts'
export { createOrigin, type Origin, type OriginDependencies, type OriginOptions } from './origin.ts'
export { InvalidAccountError, listUsers, removeUser, setUser } from './accounts/htpasswd.ts'
export { InvalidRuleError, type AccessRule, type Action } from './accounts/rules.ts'
