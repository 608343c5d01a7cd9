// Nodes and origins for the tests of this room and of those that build on it.
export * from './channels.ts'
export * from './cluster.ts'
export * from './origin.ts'
