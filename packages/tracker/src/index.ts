export { Coordinator, type CoordinatorOptions } from './coordinator.ts'
export { createTracker, Tracker, type TrackerOptions } from './tracker.ts'
