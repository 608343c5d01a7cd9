// `shoal pins` and `shoal unpin`: which images stay on this node, and letting one go.
import { AdminClient, type AdminOptions } from '../admin-client.ts'
import { CommandError, EXIT_OK } from '../exit-codes.ts'
import { plainText, shortDigest, showTable } from '../people.ts'
import type { Output } from '../program.ts'
import { checkedImage } from './pull.ts'

export async function pinsCommand(options: AdminOptions, output: Output): Promise<number> {
  const pins = await new AdminClient(options).pins()
  const rows = pins.map(({ image, digest, digests, pinnedMs }) => [
    plainText(image),
    shortDigest(plainText(digest)),
    String(digests.length),
    new Date(pinnedMs).toISOString(),
  ])
  output.out(rows.length === 0 ? 'Nothing is pinned.\n' : `${showTable(['IMAGE', 'DIGEST', 'BLOBS', 'SINCE'], rows)}\n`)
  return EXIT_OK
}

export async function unpinCommand(image: string, options: AdminOptions, output: Output): Promise<number> {
  const name = checkedImage(image)
  if (!(await new AdminClient(options).unpin(name))) {
    throw new CommandError(`${name} is not pinned: "shoal pins" lists what is`)
  }
  output.out(`${name} may be evicted now.\n`)
  return EXIT_OK
}
