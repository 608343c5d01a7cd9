// Imported by an agent before anything else: it collects its garbage when it is told to, so that what is measured then is
// what it holds, and not what an idle process has had no reason to let go of.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { isMainThread } from 'node:worker_threads'

if (isMainThread) {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  // With any argument it would collect what is young and no more.
  process.on('SIGUSR2', () => collect())
}
