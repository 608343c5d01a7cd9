// Writes the few tar entries that a layer of the demo needs (POSIX ustar).

export type TarEntry =
  | { kind: 'file'; name: string; sizeBytes: number; mode: number }
  | { kind: 'directory'; name: string }
  | { kind: 'link'; name: string; target: string }

const BLOCK_BYTES = 512

/** Zeros that fill a file of this size up to a whole block. */
export function tarPadding(sizeBytes: number): Buffer {
  return Buffer.alloc((BLOCK_BYTES - (sizeBytes % BLOCK_BYTES)) % BLOCK_BYTES)
}

/** The two empty blocks at the end of an archive. */
export const TAR_END = Buffer.alloc(2 * BLOCK_BYTES)

/** Sizes from 8 GiB on do not fit into octal; GNU's and libarchive's base-256 form is what readers understand. */
function writeSize(header: Buffer, sizeBytes: number): void {
  if (sizeBytes < 8 ** 11) {
    header.write(`${sizeBytes.toString(8).padStart(11, '0')}\0`, 124, 'latin1')
    return
  }
  header.writeUInt8(0x80, 124)
  header.writeBigUInt64BE(BigInt(sizeBytes), 128)
}

/** The header of an entry. Time is 1970 and owner root, so that the same content gives the same digest. */
export function tarHeader(entry: TarEntry): Buffer {
  const header = Buffer.alloc(BLOCK_BYTES)
  const mode = entry.kind === 'file' ? entry.mode : entry.kind === 'directory' ? 0o755 : 0o777
  if (Buffer.byteLength(entry.name) > 100) throw new RangeError(`the name ${entry.name} is too long for this tar`)
  header.write(entry.name, 0, 'utf8')
  header.write(`${mode.toString(8).padStart(7, '0')}\0`, 100, 'latin1')
  header.write('0000000\0', 108, 'latin1')
  header.write('0000000\0', 116, 'latin1')
  writeSize(header, entry.kind === 'file' ? entry.sizeBytes : 0)
  header.write('00000000000\0', 136, 'latin1')
  header.write('        ', 148, 'latin1')
  header.write(entry.kind === 'file' ? '0' : entry.kind === 'directory' ? '5' : '2', 156, 'latin1')
  if (entry.kind === 'link') header.write(entry.target, 157, 'utf8')
  header.write('ustar\0', 257, 'latin1')
  header.write('00', 263, 'latin1')
  const sum = header.reduce((total, byte) => total + byte, 0)
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return header
}
