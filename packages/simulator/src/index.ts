// A virtual cluster that drives the daemon's own decisions (swarm/policy) in virtual time.
export { simulate } from './cluster.ts'
export { completionCurve } from './chart.ts'
export { simulateCommand } from './command.ts'
export { measure, valueOf, type Outcome } from './outcome.ts'
export { seededRandom } from './random.ts'
export { idealMs, imageBytes, parseScenario, readScenario, ScenarioError, type Scenario } from './scenario.ts'
export { missedTargets, outcomeTable } from './table.ts'
