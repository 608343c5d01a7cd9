// What every daemon tells of its own process.
import { collectDefaultMetrics, type Registry } from 'prom-client'

/** How often the event loop's lag is measured: every 10 ms, as by default, was most of what an idle node did. */
const EVENT_LOOP_PRECISION_MS = 250

/** Registers memory, processor time, descriptors and event loop of this process; once for each prom-client Registry. */
export function collectProcessMetrics(registry: Registry): void {
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: EVENT_LOOP_PRECISION_MS })
}
