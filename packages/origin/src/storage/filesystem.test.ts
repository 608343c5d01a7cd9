import { temporaryFolder } from '../testing.ts'
import { driverConformance } from './conformance.ts'
import { FilesystemDriver } from './filesystem.ts'

driverConformance('filesystem', async () => {
  const folder = await temporaryFolder()
  const driver = await FilesystemDriver.open(folder.path)
  return {
    driver,
    again: () => FilesystemDriver.open(folder.path),
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  }
})
