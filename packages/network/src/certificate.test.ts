import assert from 'node:assert/strict'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { suite, test } from 'node:test'
import { selfSignedCertificate } from './certificate.ts'

suite('self-signed certificate', () => {
  test('is read and found right by OpenSSL', () => {
    const { key, cert } = selfSignedCertificate('shoal')
    const certificate = new X509Certificate(cert)
    assert.equal(certificate.subject, 'CN=shoal')
    assert.equal(certificate.issuer, 'CN=shoal')
    assert.equal(certificate.checkIssued(certificate), true)
    assert.equal(certificate.verify(certificate.publicKey), true)
    assert.equal(certificate.checkPrivateKey(createPrivateKey(key)), true)
    assert.equal(certificate.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1')
    assert.equal(new Date(certificate.validTo).getUTCFullYear(), 9999)
    assert.ok(Date.parse(certificate.validFrom) < Date.now())
  })

  test('every one has its own key and serial number', () => {
    const made = Array.from({ length: 50 }, () => new X509Certificate(selfSignedCertificate('shoal').cert))
    assert.equal(new Set(made.map(({ serialNumber }) => serialNumber)).size, 50)
    assert.equal(new Set(made.map(({ fingerprint256 }) => fingerprint256)).size, 50)
    for (const certificate of made) assert.equal(certificate.verify(certificate.publicKey), true)
  })

  test('long names have long lengths', () => {
    for (const name of ['x'.repeat(130), 'ü'.repeat(200)]) {
      const certificate = new X509Certificate(selfSignedCertificate(name).cert)
      assert.equal(certificate.verify(certificate.publicKey), true)
    }
  })
})
