// Runs hash jobs in a thread of its own. Started by hashers.ts; a bundle needs it as a file of its own beside it.
import { parentPort } from 'node:worker_threads'
import { HashJobs, type HashJob, type HashResult } from './hash-jobs.ts'

export interface ThreadRequest {
  ticket: number
  job: HashJob
}

export interface ThreadReply {
  ticket: number
  result: HashResult | undefined
  /** Why the job failed. */
  failure: string | undefined
}

const jobs = new HashJobs()

parentPort?.on('message', ({ ticket, job }: ThreadRequest) => {
  let reply: ThreadReply
  try {
    reply = { ticket, result: jobs.run(job), failure: undefined }
  } catch (error) {
    reply = { ticket, result: undefined, failure: error instanceof Error ? error.message : String(error) }
  }
  parentPort?.postMessage(reply)
})
