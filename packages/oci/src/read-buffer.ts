// Buffers that files are read into, again and again.

/**
 * Where such a buffer begins in its memory. Large blocks are mappings of their own (bin/shoal), of which malloc hands out
 * the part from the 16th byte of a page on. There the kernel's copy out of the page cache takes 0.17 CPU s/GB; from the
 * 64th on it takes 0.06.
 */
export const READ_BUFFER_OFFSET_BYTES = 48

/** A buffer of `bytes` bytes that is not zeroed, and that `bytes + READ_BUFFER_OFFSET_BYTES` of memory belong to. */
export function readBuffer(bytes: number): Buffer {
  return Buffer.allocUnsafeSlow(bytes + READ_BUFFER_OFFSET_BYTES).subarray(READ_BUFFER_OFFSET_BYTES)
}

/**
 * Frees the memory of such a buffer at once: it, and what was cut from it, has no length afterwards. Left to the garbage collector, a
 * few MiB for each answer bring on a full collection every ten answers or so.
 */
export function freeReadBuffer({ buffer }: Buffer): void {
  if (buffer instanceof ArrayBuffer) buffer.transfer(0)
}
