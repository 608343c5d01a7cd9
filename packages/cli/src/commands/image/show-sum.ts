// The last line of a transfer.
import { showSize } from '../../people.ts'
import type { TransferSum } from '../../push-image.ts'

export function showSum({ blobs, bytes, manifestsPut }: TransferSum): string {
  if (blobs.uploaded + blobs.mounted + manifestsPut === 0) return 'Everything was there already.'
  const parts = [
    `${blobs.uploaded} blobs (${showSize(bytes.uploaded)}) sent`,
    `${blobs.mounted} (${showSize(bytes.mounted)}) mounted`,
    `${blobs.present} (${showSize(bytes.present)}) there already`,
    `${manifestsPut} manifests put`,
  ]
  return `${parts.join(', ')}.`
}
