// The self-signed certificate that TLS cannot do without. Nobody looks at it: who the other side is, and that nobody
// sits in between, is proven by the handshake inside of the connection (transfer-handshake.ts). Node writes no X.509
// itself, and what little of DER this needs is less than the libraries for it.
import { createPublicKey, generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto'

/** Tags of ASN.1 (X.690). */
const INTEGER = 0x02
const BIT_STRING = 0x03
const OBJECT_IDENTIFIER = 0x06
const UTF8_STRING = 0x0c
const GENERALIZED_TIME = 0x18
const SEQUENCE = 0x30
const SET = 0x31
/** [0], constructed: where RFC 5280 has the version. */
const EXPLICIT_0 = 0xa0

/** 1.2.840.10045.4.3.2 */
const ECDSA_WITH_SHA256 = Buffer.from('2a8648ce3d040302', 'hex')
/** 2.5.4.3 */
const COMMON_NAME = Buffer.from('550403', 'hex')

export interface TlsIdentity {
  /** PEM */
  key: string
  /** PEM */
  cert: string
}

/** A fresh P-256 key and a certificate for it, which never expires: clocks of cluster nodes may be far off. */
export function selfSignedCertificate(commonName: string): TlsIdentity {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
    cert: pem('CERTIFICATE', certificate(privateKey, commonName)),
  }
}

function certificate(privateKey: KeyObject, commonName: string): Buffer {
  const algorithm = der(SEQUENCE, der(OBJECT_IDENTIFIER, ECDSA_WITH_SHA256))
  const name = der(
    SEQUENCE,
    der(SET, der(SEQUENCE, der(OBJECT_IDENTIFIER, COMMON_NAME), der(UTF8_STRING, Buffer.from(commonName)))),
  )
  const serial = randomBytes(16)
  // Positive, and with a first byte that is not 0: the shortest form.
  serial[0] = ((serial[0] as number) & 0x7f) | 0x40
  const toBeSigned = der(
    SEQUENCE,
    der(EXPLICIT_0, der(INTEGER, Buffer.from([2]))),
    der(INTEGER, serial),
    algorithm,
    name,
    // RFC 5280, 4.1.2.5: the last moment that can be written means "no end".
    der(
      SEQUENCE,
      der(GENERALIZED_TIME, Buffer.from('20200101000000Z')),
      der(GENERALIZED_TIME, Buffer.from('99991231235959Z')),
    ),
    name,
    createPublicKey(privateKey).export({ type: 'spki', format: 'der' }),
  )
  const signature = sign('sha256', toBeSigned, privateKey)
  return der(SEQUENCE, toBeSigned, algorithm, der(BIT_STRING, Buffer.from([0]), signature))
}

/** Tag, length and contents. */
function der(tag: number, ...contents: Uint8Array[]): Buffer {
  const body = Buffer.concat(contents)
  const size = body.byteLength
  const length = size < 0x80 ? [size] : size < 0x100 ? [0x81, size] : [0x82, size >> 8, size & 0xff]
  return Buffer.concat([Buffer.from([tag, ...length]), body])
}

function pem(label: string, bytes: Buffer): string {
  const lines = bytes.toString('base64').match(/.{1,64}/g) ?? []
  return [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`, ''].join('\n')
}
