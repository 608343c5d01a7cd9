// Who may do what with which repository. Rules only ever allow; what no rule allows is refused.

export type Action = 'pull' | 'push' | 'delete'

export const ACTIONS: readonly Action[] = ['pull', 'push', 'delete']

/** Every part must match for the rule to allow something. */
export interface AccessRule {
  /**
   * Patterns of repository names. `*` stands for one path segment or a part of it, `**` for any number of segments,
   * `{user}` for the name of who asks: `team-a/**`, `base/*`, `home/{user}/**`.
   */
  repositories: string[]
  /** Names of users; `*` is everybody who has logged in, `anonymous` everybody at all. */
  users: string[]
  actions: Action[]
}

/** What holds with accounts but without rules: who has logged in may do everything, others nothing. */
export const DEFAULT_RULES: readonly AccessRule[] = [{ repositories: ['**'], users: ['*'], actions: [...ACTIONS] }]

/** A rule cannot be understood. */
export class InvalidRuleError extends Error {
  override readonly name = 'InvalidRuleError'
}

/** What a pattern of repository names is made of, and what a rule may name as a user: regular expressions. */
export const REPOSITORY_PATTERN = '^[a-z0-9._*/-]*(\\{user\\}[a-z0-9._*/-]*)*$'
export const USER_IN_RULE_PATTERN = '^(\\*|[A-Za-z0-9][A-Za-z0-9._@-]{0,127})$'

const PATTERN = new RegExp(REPOSITORY_PATTERN)

interface CompiledRule {
  matches: (name: string, user: string) => boolean
  users: Set<string>
  actions: Set<Action>
}

export class AccessRules {
  readonly #rules: CompiledRule[]

  /** @throws InvalidRuleError */
  constructor(rules: readonly AccessRule[] = DEFAULT_RULES) {
    this.#rules = rules.map((rule, at) => compile(rule, at))
  }

  /** What `user` (undefined: nobody has logged in) may do with a repository. */
  allowed(user: string | undefined, name: string): Set<Action> {
    const allowed = new Set<Action>()
    for (const rule of this.#rules) {
      const applies =
        rule.users.has('anonymous') || (user !== undefined && (rule.users.has('*') || rule.users.has(user)))
      if (applies && rule.matches(name, user ?? '')) for (const action of rule.actions) allowed.add(action)
    }
    return allowed
  }
}

/** One pattern of repository names, as in {@link AccessRule}, but of no user. @throws InvalidRuleError */
export function repositoryPattern(pattern: string): (name: string) => boolean {
  if (!PATTERN.test(pattern) || pattern.includes('{')) {
    throw new InvalidRuleError(`${JSON.stringify(pattern)} matches no repository`)
  }
  const segments = pattern.split('/')
  return (name) => matchSegments(segments, name.split('/'), '')
}

/** Whether a name matches one of the patterns; all do without any. @throws InvalidRuleError */
export function anyPattern(patterns: readonly string[] = ['**']): (name: string) => boolean {
  const each = patterns.map(repositoryPattern)
  return (name) => each.some((matches) => matches(name))
}

function compile(rule: AccessRule, at: number): CompiledRule {
  const where = `access rule ${at + 1}`
  for (const action of rule.actions) {
    if (!ACTIONS.includes(action)) throw new InvalidRuleError(`${where}: ${JSON.stringify(action)} is no action`)
  }
  if (rule.repositories.length === 0 || rule.users.length === 0 || rule.actions.length === 0) {
    throw new InvalidRuleError(`${where}: repositories, users and actions must name something`)
  }
  const patterns = rule.repositories.map((pattern) => {
    if (pattern === '' || !PATTERN.test(pattern))
      throw new InvalidRuleError(`${where}: ${JSON.stringify(pattern)} matches no repository`)
    return pattern.split('/')
  })
  return {
    matches: (name, user) => patterns.some((pattern) => matchSegments(pattern, name.split('/'), user)),
    users: new Set(rule.users),
    actions: new Set(rule.actions),
  }
}

/** Where what follows the last `**` does not fit, that one takes a segment more: so it takes pattern times name at most. */
function matchSegments(pattern: string[], segments: string[], user: string): boolean {
  let at = 0
  let next = 0
  let wide: { at: number; next: number } | undefined
  while (next < segments.length) {
    const wanted = pattern[at]
    if (wanted === '**') wide = { at: ++at, next }
    else if (wanted !== undefined && matchSegment(wanted, segments[next]!, user)) {
      at++
      next++
    } else if (wide !== undefined) {
      at = wide.at
      next = ++wide.next
    } else return false
  }
  while (pattern[at] === '**') at++
  return at === pattern.length
}

function matchSegment(pattern: string, segment: string, user: string): boolean {
  if (pattern.includes('{user}')) {
    if (user === '') return false
    return matchSegment(pattern.replaceAll('{user}', user), segment, '')
  }
  // Without regular expressions: no pattern takes more than a linear time.
  const pieces = pattern.split('*')
  const [head = '', ...others] = pieces
  if (others.length === 0) return segment === pattern
  const tail = others.pop() ?? ''
  if (!segment.startsWith(head)) return false
  let at = head.length
  for (const piece of others) {
    const found = segment.indexOf(piece, at)
    if (found === -1) return false
    at = found + piece.length
  }
  return segment.length - tail.length >= at && segment.endsWith(tail)
}
