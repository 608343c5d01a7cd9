/** An image is not what it is called, or not what is wanted. Trying again does not help; the message is for people. */
export class ImageError extends Error {
  override readonly name = 'ImageError'
  readonly code = 'ERR_SHOAL_IMAGE'
}
