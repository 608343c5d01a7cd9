// The last line of a transfer.
import type { TransferSum } from '@shoal/origin/images'
import { showSize } from '../../people.ts'

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
