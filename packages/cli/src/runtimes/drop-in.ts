// Runtimes that read a file of ours beside their own: containerd's hosts.toml, and registries.conf.d of podman, CRI-O,
// buildah and skopeo.
import { join } from 'node:path'
import { segmentOfRegistry } from '@shoal/agent/names'
import { CommandError } from '../exit-codes.ts'
import { readText } from './file-change.ts'
import { authorityNotes, MARK, type Plan, type Runtime, type Wish } from './runtime.ts'

async function planFile(path: string, after: string | undefined, what: string): Promise<Plan> {
  const before = await readText(path)
  if (before !== undefined && !before.startsWith(MARK)) {
    if (after === undefined) return { changes: [], notes: [`${path} was not written by Shoal and is left as it is`] }
    const lines = after.split('\n').slice(1).join('\n').trim()
    throw new CommandError(`${path} is not Shoal's, so it is left as it is. ${what}:\n\n${lines}\n`)
  }
  return { changes: [{ path, before, after }], notes: [] }
}

function hostsFile({ root }: Wish): string {
  return join(root, 'etc/containerd/certs.d/_default/hosts.toml')
}

export const containerd: Runtime = {
  name: 'containerd',
  programs: ['containerd'],
  async plan(wish) {
    const text = [
      MARK,
      '# Read at every pull, for every registry without a folder of its own. While the agent does not answer,',
      '# containerd asks the registry itself.',
      `[host.${JSON.stringify(wish.mirror.origin)}]`,
      '  capabilities = ["pull", "resolve"]',
      ...(wish.ca === undefined ? [] : [`  ca = ${JSON.stringify(wish.ca)}`]),
      '',
    ].join('\n')
    const plan = await planFile(hostsFile(wish), text, 'Add to it')
    const advice = 'name its file with --ca, and containerd trusts it for the agent'
    if (wish.ca === undefined) plan.notes.push(...authorityNotes(wish.mirror, advice))
    const obstacle = obstacleIn((await readText(join(wish.root, 'etc/containerd/config.toml'))) ?? '')
    return obstacle === undefined ? plan : { ...plan, obstacle }
  },
  planUndo: (wish) => planFile(hostsFile(wish), undefined, ''),
}

/** Without this key CRI does not look into the folder. @param main - containerd's own configuration */
function obstacleIn(main: string): string | undefined {
  if (/^\s*config_path\s*=\s*["'][^"']*\/etc\/containerd\/certs\.d/m.test(main)) return undefined
  // containerd refuses a configuration that has both.
  const isOld = /^\s*\[[^\n]*\bregistry\.(?:mirrors|configs)\b/m.test(main)
  return (
    'CRI (Kubernetes) reads hosts.toml only with config_path = "/etc/containerd/certs.d" ' +
    `${isOld ? 'and no registry.mirrors or registry.configs ' : ''}in the registry section of ` +
    '/etc/containerd/config.toml, after a restart of containerd; ctr needs --hosts-dir /etc/containerd/certs.d'
  )
}

function registriesFile({ root }: Wish): string {
  return join(root, 'etc/containers/registries.conf.d/50-shoal.conf')
}

export const podman: Runtime = {
  name: 'podman',
  programs: ['podman', 'crio', 'buildah', 'skopeo'],
  async plan(wish) {
    const blocks = wish.registries.map((registry) =>
      [
        '[[registry]]',
        `prefix = ${JSON.stringify(registry)}`,
        `location = ${JSON.stringify(registry)}`,
        '[[registry.mirror]]',
        `location = ${JSON.stringify(`${wish.mirror.host}/${segmentOfRegistry(registry)}`)}`,
        `insecure = ${wish.mirror.protocol === 'http:'}`,
        '',
      ].join('\n'),
    )
    const plan = await planFile(registriesFile(wish), [MARK, ...blocks].join('\n'), 'Move it away, or add to it')
    plan.notes.push(`podman goes through the agent for ${wish.registries.join(', ')}; name others with --registry`)
    plan.notes.push(...authorityNotes(wish.mirror, `put it at /etc/containers/certs.d/${wish.mirror.host}/ca.crt`))
    plan.notes.push('CRI-O reads it after: systemctl reload crio')
    return plan
  },
  planUndo: (wish) => planFile(registriesFile(wish), undefined, ''),
}
