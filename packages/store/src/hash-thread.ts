// Runs hash jobs in a thread of its own. Started by hash-service.ts; a bundle needs it as a file of its own beside it.
import { parentPort } from 'node:worker_threads'
import { HashJobs, type HashJob, type HashResult } from './hash-jobs.ts'

export interface HashThreadRequest {
  id: number
  job: HashJob
}

export type HashThreadReply = { id: number } & (
  { result: HashResult } | { error: { message: string; code: string | undefined } }
)

const jobs = new HashJobs()

parentPort?.on('message', ({ id, job }: HashThreadRequest) => {
  let reply: HashThreadReply
  try {
    reply = { id, result: jobs.run(job) }
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException
    reply = { id, error: { message, code } }
  }
  parentPort?.postMessage(reply)
})
