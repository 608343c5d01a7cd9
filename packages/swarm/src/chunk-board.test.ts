import assert from 'node:assert/strict'
import test from 'node:test'
import { ChunkMap } from '@shoal/store'
import { ChunkBoard, Superseded } from './chunk-board.ts'

function setUp(chunkCount = 8, here: number[] = []) {
  const have = new ChunkMap(chunkCount)
  for (const chunk of here) have.add(chunk)
  const board = new ChunkBoard(have)
  const begin = (chunk: number, peerId: string | undefined = 'peer', nowMs = 0) =>
    board.begin(chunk, peerId, nowMs, new AbortController())
  return { have, board, begin }
}

const open = (board: ChunkBoard) => [...board.open.indices()]

test('what is here already is not open', () => {
  assert.deepEqual(open(setUp(4, [0, 2]).board), [1, 3])
})

test('a chunk on its way is not open, and is open again when it failed', () => {
  const { board, begin } = setUp(2)
  const request = begin(0)
  assert.deepEqual(open(board), [1])
  assert.ok(board.isPending(0))
  board.end(request, 10, false)
  assert.deepEqual(open(board), [0, 1])
  assert.ok(!board.isPending(0))
})

test('a chunk that has come is not open again', () => {
  const { have, board, begin } = setUp(2)
  const request = begin(0)
  have.add(0)
  board.arrived(0)
  board.end(request, 10, true)
  assert.deepEqual(open(board), [1])
})

test('of two requests for a chunk the other one is given up when it comes, and only the last to end opens it', () => {
  const { have, board, begin } = setUp(1)
  const [one, two] = [begin(0, 'a'), begin(0, 'b')]
  board.end(one, 1, false)
  assert.deepEqual(open(board), [])
  have.add(0)
  board.arrived(0)
  assert.ok(two.abort.signal.reason instanceof Superseded)
  assert.equal(one.abort.signal.aborted, false)
  board.end(two, 2, false)
  assert.deepEqual(open(board), [])
})

test('a chunk that turned out wrong is open again, unless it is on its way', () => {
  const { have, board, begin } = setUp(2, [0, 1])
  have.delete(0)
  board.lost(0)
  assert.deepEqual(open(board), [0])
  begin(0)
  board.lost(0)
  assert.deepEqual(open(board), [])
})

test('a request that takes much longer than usual may be made twice, not three times', () => {
  const { board, begin } = setUp(3)
  board.end(begin(2, 'peer', 0), 100, true)
  assert.equal(board.usualMs, 100)
  begin(0, 'a', 1000)
  begin(1, 'a', 1300)
  board.markLate(1250)
  assert.deepEqual([...board.late.indices()], [0])
  begin(0, 'b', 1250)
  assert.equal(board.late.has(0), false)
  board.markLate(9999)
  assert.deepEqual([...board.late.indices()], [1])
})

test('the usual time follows the peers, not the origin, and not what failed', () => {
  const { board, begin } = setUp(8)
  board.end(board.begin(0, undefined, 0, new AbortController()), 5000, true)
  board.end(begin(1), 5000, false)
  assert.equal(board.usualMs, 0)
  board.end(begin(2), 100, true)
  board.end(begin(3), 200, true)
  assert.ok(board.usualMs > 100 && board.usualMs < 150, 'one slow chunk does not change it much')
})

test('only the origin has what no neighbour offers, nobody claims and is not on its way', () => {
  const { board, begin } = setUp(4)
  board.offered(0, true, 1)
  begin(1)
  assert.deepEqual([...board.onlyAtOrigin((chunk) => chunk === 2).indices()], [3])
})
