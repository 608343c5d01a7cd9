// How the caches of all rooms are bounded.

/**
 * Options of an lru-cache that holds at most so many entries and takes their room as they come. Its own `max` takes the
 * room of all entries at once, which for caches that are there for the worst case was 4 MB of an idle agent.
 */
export function entryLimit(entries: number): { maxSize: number; sizeCalculation: () => number } {
  return { maxSize: entries, sizeCalculation: () => 1 }
}
