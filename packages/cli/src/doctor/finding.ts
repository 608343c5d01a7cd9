// What `shoal doctor` finds, one line for each.

export interface Finding {
  /** What was looked at, in a word or two. */
  subject: string
  verdict: 'ok' | 'warn' | 'fail' | 'skip'
  /** What is the matter, and what to do about it. */
  message: string
}

export const ok = (subject: string, message: string): Finding => ({ subject, verdict: 'ok', message })
export const warn = (subject: string, message: string): Finding => ({ subject, verdict: 'warn', message })
export const fail = (subject: string, message: string): Finding => ({ subject, verdict: 'fail', message })
export const skip = (subject: string, message: string): Finding => ({ subject, verdict: 'skip', message })
