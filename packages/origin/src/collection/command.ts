// Garbage collection by hand, beside a registry that may be running on the same storage or not.
import type { Logger } from 'pino'
import type { RegistryConfig } from '../config.ts'
import { Hashers } from '../hashing/hashers.ts'
import { Places } from '../places.ts'
import { collectPlace, type CollectionReport } from './collector.ts'

/** Collects in every place of a configuration, once. @throws the reason of the signal when it is aborted */
export async function collectGarbage(
  config: RegistryConfig,
  { dryRun, logger, signal }: { dryRun: boolean; logger: Logger; signal: AbortSignal },
): Promise<CollectionReport[]> {
  const { removeUntagged, allowSparseIndexes, collectionGrace: graceMs, uploadExpiry: uploadExpiryMs } = config
  const hashers = new Hashers(logger)
  const reports: CollectionReport[] = []
  try {
    const places = await Places.open({
      ...config,
      ...{ graceMs, uploadExpiryMs, allowSparseIndexes, hashers, logger, isGuest: true },
      onBytes: () => undefined,
    })
    try {
      for (const place of places.all) {
        if (!dryRun) await place.uploads.removeExpired()
        reports.push(await collectPlace(place, { removeUntagged, dryRun, logger, signal }))
      }
    } finally {
      await places.close()
    }
  } finally {
    await hashers.close()
  }
  return reports
}
