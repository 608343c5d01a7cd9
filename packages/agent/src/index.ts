export { Agent, createAgent, type AgentOptions } from './agent.ts'
export { agentConfig, agentConfigSchema, type AgentConfig } from './config.ts'
