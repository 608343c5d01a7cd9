// The decisions of a swarm, as functions of what is passed in: no clock, no I/O, no chance of their own. The daemon, the
// tracker and the simulator call the same ones.
export * from './parameters.ts'
export * from './choose-request.ts'
export * from './admit-upload.ts'
export * from './member-pool.ts'
export * from './neighbours.ts'
export * from './leases.ts'
export * from './zone-books.ts'
export * from './zones.ts'
export * from './rendezvous.ts'
export * from './origin-window.ts'
export * from './token-bucket.ts'
export * from './end-game.ts'
