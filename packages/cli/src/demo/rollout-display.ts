// The demo while it pulls: a bar for each agent on a terminal, a line for each finished agent elsewhere.
import { MultiBar, type SingleBar } from 'cli-progress'
import { showDuration, showSize } from '../people.ts'

export interface RolloutDisplay {
  received(agent: number, bytes: number): void
  finished(agent: number, durationMs: number): void
  close(): void
}

export function rolloutDisplay(
  names: string[],
  imageBytes: number,
  stream: NodeJS.WriteStream,
  write: (text: string) => void,
): RolloutDisplay {
  if (!stream.isTTY) {
    return {
      received: () => {},
      finished: (agent, durationMs) => write(`${names[agent]} has the image after ${showDuration(durationMs)}\n`),
      close: () => {},
    }
  }
  const bars = new MultiBar({
    stream,
    hideCursor: true,
    barsize: 32,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    autopadding: true,
    format: `{name} {bar} {percentage} % of ${showSize(imageBytes)}  {state}`,
  })
  const width = Math.max(...names.map((name) => name.length))
  const all: SingleBar[] = names.map((name) => bars.create(imageBytes, 0, { name: name.padEnd(width), state: '' }))
  return {
    received: (agent, bytes) => all[agent]?.increment(bytes),
    finished: (agent, durationMs) => all[agent]?.update(imageBytes, { state: showDuration(durationMs) }),
    close: () => bars.stop(),
  }
}
