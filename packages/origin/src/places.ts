// Where each namespace is kept. A place is a folder or a bucket with all that belongs to its content; which one a
// repository lies in follows from its name alone, so no process has to look anything up.
import { resolve } from 'node:path'
import { ConfigMistakeError, OciError } from '@shoal/oci'
import type { Logger } from 'pino'
import { repositoryPattern } from './accounts/rules.ts'
import { Retention } from './collection/retention.ts'
import { ChunkLists } from './chunk-lists.ts'
import type { Hashers } from './hashing/hashers.ts'
import { Repositories } from './repositories.ts'
import type { StorageDriver } from './storage/driver.ts'
import { FilesystemDriver } from './storage/filesystem.ts'
import { claimFolder } from './storage/folder-claim.ts'
import { Uploads } from './uploads.ts'

/** Exactly one of `directory` and `bucket` is set. */
export interface PlaceSettings {
  /**
   * Repositories that lie here: `*` stands for one path segment or a part of it, `**` for any number of segments. The
   * first place that matches counts. @default none, unless it is the default place
   */
  repositories?: string[]
  directory?: string
  bucket?: string
  /** The rest is of buckets: see S3Settings. */
  prefix?: string
  endpoint?: string
  region?: string
  pathStyle?: boolean
  credentialsFile?: string
  profile?: string
}

/** One place, opened. */
export interface Place {
  readonly name: string
  readonly kind: 'directory' | 'bucket'
  readonly driver: StorageDriver
  readonly repositories: Repositories
  readonly uploads: Uploads
  readonly chunkLists: ChunkLists
  readonly retention: Retention
  /** Others may have the folder. */
  readonly release: () => Promise<void>
}

export interface PlacesOptions {
  /** Of the place named `default`. */
  dataDirectory: string
  places?: Record<string, PlaceSettings> | undefined
  /** The place of what no pattern matches. @default the folder `dataDirectory` */
  defaultPlace?: string | undefined
  allowSparseIndexes: boolean
  uploadExpiryMs: number
  /** How long what nobody needs or uses stays, in ms. */
  graceMs: number
  /** A registry may be running on the same folders: what it is about to write is left alone. @default false */
  isGuest?: boolean
  hashers: Hashers
  logger: Logger
  onBytes: (count: number) => void
}

/** Name of the place that `dataDirectory` is. */
const DATA_DIRECTORY_PLACE = 'default'

export class Places {
  readonly all: readonly Place[]
  readonly #rules: { matches: (name: string) => boolean; place: Place }[]
  readonly #otherwise: Place

  private constructor(all: Place[], rules: { matches: (name: string) => boolean; place: Place }[], otherwise: Place) {
    this.all = all
    this.#rules = rules
    this.#otherwise = otherwise
  }

  /** @throws ConfigMistakeError when the settings contradict each other; InvalidRuleError; FolderInUseError */
  static async open(options: PlacesOptions): Promise<Places> {
    const { defaultPlace = DATA_DIRECTORY_PLACE } = options
    const settings = placeSettings(options)
    const opened = new Map<string, Place>()
    try {
      for (const [name, one] of settings) opened.set(name, await openPlace(name, one, options))
    } catch (error) {
      await closeAll([...opened.values()])
      throw error
    }
    const rules = [...opened].flatMap(([name, place]) =>
      (settings.get(name)?.repositories ?? []).map((pattern) => ({ matches: repositoryPattern(pattern), place })),
    )
    return new Places([...opened.values()], rules, opened.get(defaultPlace) as Place)
  }

  /** Where a repository lies. */
  of(repository: string): Place {
    return this.#rules.find(({ matches }) => matches(repository))?.place ?? this.#otherwise
  }

  /** Names of all repositories that show a manifest, in ASCII order. */
  async names(): Promise<string[]> {
    const names = await Promise.all(
      this.all.map(async (place) => (await place.repositories.names()).filter((name) => this.of(name) === place)),
    )
    return names.flat().sort()
  }

  /** Breaks off what is arriving, lets chunk lists be finished, and lets go of the storage. */
  async close(): Promise<void> {
    await closeAll(this.all)
  }
}

async function openPlace(name: string, settings: PlaceSettings, options: PlacesOptions): Promise<Place> {
  const { hashers, onBytes, allowSparseIndexes, uploadExpiryMs: expiryMs } = options
  const logger = options.logger.child({ place: name })
  const { directory, bucket } = settings
  const isGuest = options.isGuest ?? false
  const release = bucket === undefined && !isGuest ? await claimFolder(directory as string) : () => Promise.resolve()
  const driver = await openDriver(settings, isGuest, logger).catch(async (error: unknown) => {
    await release()
    throw named(name, settings, error)
  })
  const retention = new Retention(driver, options.graceMs)
  const chunkLists = new ChunkLists(driver, hashers)
  return {
    name,
    kind: bucket === undefined ? 'directory' : 'bucket',
    driver,
    release,
    chunkLists,
    retention,
    repositories: new Repositories({ driver, allowSparseIndexes, retention }),
    uploads: new Uploads({ driver, retention, chunkLists, hashers, logger, expiryMs, onBytes }),
  }
}

async function openDriver(
  { directory, bucket, ...rest }: PlaceSettings,
  isGuest: boolean,
  logger: Logger,
): Promise<StorageDriver> {
  if (bucket === undefined) return FilesystemDriver.open(directory as string, { isGuest })
  // Only those who have a bucket pay for the SDK: it takes time and memory to load.
  const { S3Driver } = await import('./storage/s3/driver.ts')
  return S3Driver.open({ bucket, ...rest }, logger)
}

/** The reason why a bucket cannot be used, with the key that says which it is. */
function named(name: string, { credentialsFile }: PlaceSettings, error: unknown): unknown {
  if (!(error instanceof OciError)) return error
  const { code, status, cause } = error
  const why = cause instanceof Error ? ` (${cause.message})` : ''
  const key =
    credentialsFile !== undefined && cause instanceof Error && cause.name === 'CredentialsProviderError'
      ? `places.${name}.credentialsFile ${credentialsFile}`
      : `places.${name}`
  return new OciError(code, `${key}: ${error.message}${why}`, { status, cause })
}

async function closeAll(places: readonly Place[]): Promise<void> {
  for (const { uploads, chunkLists, driver, release } of places) {
    await uploads.close()
    await chunkLists.idle()
    await driver.close()
    await release()
  }
}

/** All places by name. @throws ConfigMistakeError when they contradict each other */
export function placeSettings(
  options: Pick<PlacesOptions, 'dataDirectory' | 'places' | 'defaultPlace'>,
): Map<string, PlaceSettings> {
  const { dataDirectory, places = {}, defaultPlace = DATA_DIRECTORY_PLACE } = options
  const settings = new Map(Object.entries(places))
  if (defaultPlace === DATA_DIRECTORY_PLACE && !settings.has(defaultPlace)) {
    settings.set(defaultPlace, { directory: dataDirectory })
  }
  if (!settings.has(defaultPlace))
    throw new ConfigMistakeError('defaultPlace', `names ${defaultPlace}, which is not among places`)
  const taken = new Map<string, string>()
  for (const [name, { directory, bucket, endpoint = '', prefix = '', repositories = [] }] of settings) {
    if ((directory === undefined) === (bucket === undefined)) {
      throw new ConfigMistakeError('places', `must give ${name} either a directory or a bucket`)
    }
    if (repositories.length === 0 && name !== defaultPlace) {
      throw new ConfigMistakeError('places', `must give ${name} repositories, or it is to be the defaultPlace`)
    }
    const where = directory === undefined ? [endpoint, bucket, prefix].join(' ') : resolve(directory)
    const other = taken.get(where)
    if (other !== undefined)
      throw new ConfigMistakeError('places', `must not have the same place twice, as ${other} and ${name}`)
    taken.set(where, name)
  }
  return settings
}
