// The numbers that the decisions of a swarm depend on, in one place, with where each comes from.

/** Where randomness comes from: a number in [0, 1). Passed in, so that a simulation can be repeated. */
export type Random = () => number

/** Numbers of the swarm policy. Defaults are from the simulation study (docs/decisions/0002-swarm-policy.md). */
export interface SwarmParameters {
  /** Chunk requests under way from one node, all its blobs together. One more than `uploadSlots`, so that
   * a busy swarm always has a request for a slot that becomes free. @default 8 */
  pipeline: number
  /** Requests under way from one node to one neighbour. @default 1 */
  requestsPerNeighbour: number
  /** Chunks that a node sends at a time; a request beyond them is answered `busy`. @default 7 */
  uploadSlots: number
  /** Neighbours that a node looks for. Under 10 the tail grows long, over 24 only costs messages. @default 16 */
  neighbours: number
  /** Neighbours that a tracker names to a newcomer; those who come later bring it to `neighbours`. @default 8 */
  introducedNeighbours: number
  /** Neighbours that a node accepts. @default 18 */
  acceptedNeighbours: number
  /** Of these, neighbours of other zones. @default 6 */
  acceptedRemoteNeighbours: number
  /** Neighbours of other zones among those named: for when no tracker leads across. @default 1 */
  crossZoneNeighbours: number
  /** Share of the requests that are taken from the front window while a client reads along. @default 0.5 */
  frontShare: number
  /** Chunks in the front window. @default 32 */
  frontWindowChunks: number
  /** Requests for one chunk at a time, in the end game. @default 2 */
  endGameCopies: number
  /** Bounds of the wait after a `busy`, in milliseconds, where a chunk takes 100 ms or less. @default 5 and 30 */
  busyRetryMinMs: number
  busyRetryMaxMs: number
  /** Origin leases that a node holds at a time; a lone node holds twice as many. @default 1 */
  leasesPerNode: number
  /** Leases outstanding per origin host at most, over the whole cluster. @default 32 */
  leasesPerOrigin: number
  /** As many leases are outstanding whatever the origin's speed, if there is anything to fetch. @default 8 */
  leasesPerSlowOrigin: number
  /** An origin is fast enough for more leases while a chunk takes less than so long, in milliseconds. @default 150 */
  fastLeaseMs: number
  /** A lease that takes so many times what its chunks usually take is late: then another may fetch them, too. @default 3 */
  lateLeaseFactor: number
  /** No lease is late before, in milliseconds. @default 2000 */
  lateLeaseMinMs: number
  /** Chunks that may be on their way into a zone under a zone lease: as many as keep the border busy. @default 24 */
  leasesPerZone: number
  /** Starved for so long, a node asks neighbours of other zones without a zone lease, in milliseconds. @default 500 */
  crossZoneAfterMs: number
  /** Without a tracker: chunks that a swarm has on their way from the origin at a time. @default 96 */
  originWindowChunks: number
  /** Without a tracker: time in which twice as many members feel responsible for a chunk. @default 60 */
  originShareDoublingMs: number
  /** Chunks of one lease at most, when few nodes share a blob. @default 8 */
  leaseRunChunks: number
}

export const DEFAULT_PARAMETERS: Readonly<SwarmParameters> = Object.freeze({
  pipeline: 8,
  requestsPerNeighbour: 1,
  uploadSlots: 7,
  neighbours: 16,
  introducedNeighbours: 8,
  acceptedNeighbours: 18,
  acceptedRemoteNeighbours: 6,
  crossZoneNeighbours: 1,
  frontShare: 0.5,
  frontWindowChunks: 32,
  endGameCopies: 2,
  busyRetryMinMs: 5,
  busyRetryMaxMs: 30,
  leasesPerNode: 1,
  leasesPerOrigin: 32,
  leasesPerSlowOrigin: 8,
  fastLeaseMs: 150,
  lateLeaseFactor: 3,
  lateLeaseMinMs: 2000,
  leasesPerZone: 24,
  crossZoneAfterMs: 500,
  originWindowChunks: 96,
  originShareDoublingMs: 60,
  leaseRunChunks: 8,
})
