// A pull whose image stays: pinned as soon as all of it is in the store.
import type { PulledImage } from './image-pull.ts'
import type { Pins } from './pins.ts'
import type { PullWish } from './preheater.ts'

/** Undefined when the pull failed, after an `error` event. @throws Error when there is no room to keep the image */
export async function pullAndPin(
  pins: Pins,
  pull: (wish: PullWish) => Promise<PulledImage | undefined>,
  wish: PullWish,
): Promise<PulledImage | undefined> {
  const pulled = await pull(wish)
  if (pulled === undefined || (await pins.pin(wish.image, pulled.digest, pulled.digests))) return pulled
  throw new Error('the store has no room to keep the whole image: raise storeQuota, or unpin other images')
}
