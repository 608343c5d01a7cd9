import { strict as assert } from 'node:assert'
import { test } from 'node:test'
import { ChunkMap } from '@shoal/store'
import fc from 'fast-check'
import { chooseRequest } from './choose-request.ts'
import { DEFAULT_PARAMETERS } from './parameters.ts'
import {
  chooseZoneSource,
  chunksAcross,
  chunksToBring,
  grantZoneLease,
  zoneLeasesPerNode,
  type ZoneCandidate,
} from './zones.ts'

test('a zone lease is for one chunk that the zone lacks, and none is given for what is not wanted', () => {
  const wanted = new ChunkMap(50)
  const candidates = [{ granted: 0, bringing: 0 }]
  const view = { wanted, incompleteMembers: 1 }
  assert.equal(
    grantZoneLease(view, candidates, DEFAULT_PARAMETERS, () => 0.3),
    undefined,
  )
  wanted.add(17)
  wanted.add(18)
  const decision = grantZoneLease(view, candidates, DEFAULT_PARAMETERS, () => 0.3)
  assert.deepEqual(decision, { candidate: 0, chunk: 17 })
})

test('zone leases go to those that had the fewest, and to nobody beyond its share', () => {
  const wanted = ChunkMap.full(50)
  const grant = (candidates: ZoneCandidate[]) =>
    grantZoneLease({ wanted, incompleteMembers: 100 }, candidates, DEFAULT_PARAMETERS, () => 0.3)?.candidate
  const busy = { granted: 0, bringing: 1 }
  assert.equal(grant([{ granted: 3, bringing: 0 }, busy, { granted: 2, bringing: 0 }]), 2)
  assert.equal(grant([busy, busy]), undefined)
})

test('the members of a zone can together hold all leases of the zone, none more than its pipeline', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1000 }), (members) => {
      const each = zoneLeasesPerNode(members, DEFAULT_PARAMETERS)
      assert.ok(each >= 1 && each <= DEFAULT_PARAMETERS.pipeline)
      if (members * DEFAULT_PARAMETERS.pipeline >= DEFAULT_PARAMETERS.leasesPerZone)
        assert.ok(each * members >= DEFAULT_PARAMETERS.leasesPerZone)
    }),
  )
})

test('what is sent across the border is spread over those that have it', () => {
  assert.equal(
    chooseZoneSource([{ crossings: 2 }, { crossings: 0 }, { crossings: 1 }], () => 0.5),
    1,
  )
  assert.equal(
    chooseZoneSource([], () => 0.5),
    -1,
  )
})

test('a neighbour of another zone is asked only where the border is open', () => {
  const remote = { chunks: ChunkMap.full(4), outstanding: 0, notBeforeMs: 0, freeSlots: 9, remote: true }
  const want = { open: ChunkMap.full(4), late: new ChunkMap(4), availability: new Uint16Array(4), front: -1 }
  assert.equal(
    chooseRequest(want, [remote], DEFAULT_PARAMETERS, 0, () => 0),
    undefined,
  )
  assert.notEqual(
    chooseRequest({ ...want, across: want.open }, [remote], DEFAULT_PARAMETERS, 0, () => 0),
    undefined,
  )
})

test('of a zone whose members know each other one node brings each chunk', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.integer({ min: 1, max: 2 ** 32 - 1 }), { minLength: 1, maxLength: 17 }),
      (members) => {
        const shares = members.map((self) =>
          chunksToBring(
            self,
            members.filter((other) => other !== self),
            77,
            200,
          ),
        )
        for (let chunk = 0; chunk < 200; chunk++) {
          assert.equal(shares.filter((share) => share.has(chunk)).length, 1)
        }
      },
    ),
  )
})

test('what the own zone has is not brought again; a starved node brings all that it lacks', () => {
  const { crossZoneAfterMs } = DEFAULT_PARAMETERS
  const view = { open: ChunkMap.full(4), availability: Uint16Array.from([0, 1, 0, 0]) }
  view.open.delete(3)
  const toBring = new ChunkMap(4)
  toBring.add(0)
  toBring.add(1)
  const across = (share: ChunkMap | undefined, starvedMs: number) => [
    ...(chunksAcross(view, share, starvedMs, DEFAULT_PARAMETERS)?.indices() ?? []),
  ]
  assert.deepEqual(across(toBring, crossZoneAfterMs - 1), [0])
  assert.deepEqual(across(toBring, crossZoneAfterMs), [0, 2])
  // While a tracker grants leases nothing is asked across without one, but by the starved.
  assert.deepEqual(across(undefined, crossZoneAfterMs - 1), [])
  assert.deepEqual(across(undefined, crossZoneAfterMs), [0, 2])
})
