// The storage drivers' suite with the driver for object stores, against a real S3-compatible server.
import { after } from 'node:test'
import { driverConformance, S3Driver } from '@shoal/origin/storage'
import { OBJECT_STORE, startObjectStore, type ObjectStore } from '../support/object-store.ts'
import { requires } from '../support/requirements.ts'

let store: Promise<ObjectStore> | undefined
let buckets = 0

after(async () => (await store)?.close())

for (const prefix of ['', 'some/where']) {
  driverConformance(prefix === '' ? 's3' : 's3 below a prefix', async (t) => {
    if (!requires(t, OBJECT_STORE)) return undefined
    const settings = { ...(await (store ??= startObjectStore())).bucket(`bucket-${++buckets}`), prefix }
    const drivers = [await S3Driver.open(settings)]
    return {
      driver: drivers[0] as S3Driver,
      again: async () => {
        const driver = await S3Driver.open(settings)
        drivers.push(driver)
        return driver
      },
      [Symbol.asyncDispose]: async () => void (await Promise.all(drivers.map((driver) => driver.close()))),
    }
  })
}
