// Images as a whole, wherever they come from, and how they get into a registry: for `shoal image` and for replication.
export * from './image-error.ts'
export * from './image-source.ts'
export * from './push-image.ts'
