// Content that another registry removes in the moment in which it comes.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestOf, OciError } from '@shoal/oci'
import { storeBlob } from './blob-steps.ts'

const digest = digestOf('blob')

/** Stores and links, of which so many find nothing. */
function pushing(inVain: number, store: (count: number) => Promise<void> = () => Promise.resolve()) {
  const steps: string[] = []
  const push = storeBlob(
    digest,
    4,
    {
      admit: async (sizeBytes) => void steps.push(`admit ${sizeBytes}`),
      link: async () => steps.push('link') > 0 && inVain-- <= 0,
    },
    () => store(steps.push('store')),
  )
  return { push, steps }
}

const isGone = (error: unknown) => error instanceof OciError && error.code === 'BLOB_UPLOAD_INVALID'

test('content that is gone when it is linked is stored once more', async () => {
  const { push, steps } = pushing(1)
  await push
  assert.deepEqual(steps, ['admit 4', 'store', 'link', 'store', 'link'])
})

test('content that never stays is said to be gone, after three tries', async () => {
  const { push, steps } = pushing(100)
  await assert.rejects(push, isGone)
  assert.equal(steps.filter((step) => step === 'store').length, 3)
})

test('where it can be stored only once, it is said to be gone; another failure of the first time is passed on', async () => {
  const once = (count: number) => (count > 2 ? Promise.reject(new Error('ENOENT')) : Promise.resolve())
  await assert.rejects(pushing(1, once).push, isGone)
  await assert.rejects(pushing(0, () => Promise.reject(new Error('disk full'))).push, /disk full/)
})
