import type { CourseStep, Event } from '../model/events.js';
import { plain, plural } from '../lib/text.js';
import { formatBytes, formatClock } from '../lib/units.js';
import type { Level } from './ui.js';

/** Guest text on one line, without control bytes; tabs and line breaks become blanks. */
export function clean(text: string): string {
  return plain(text).replace(/\s+/g, ' ').trimEnd();
}

type EventOf<T extends Event['type']> = Extract<Event, { type: T }>;

const on = (cell: string | undefined): string => (cell === undefined ? '' : `${clean(cell)}: `);

/** The line that an event is worth at this level, or null. Progress is not a line: see `progressText`. */
export function lineOf(event: Event, level: Level): string | null {
  if (event.type === 'note' && event.level === 'warn')
    return `${on(event.cell)}warning: ${clean(event.message)}`;
  if (level === 'quiet') return null;
  switch (event.type) {
    case 'note':
      return event.level === 'debug' && level !== 'verbose'
        ? null
        : `${on(event.cell)}${clean(event.message)}`;
    case 'phase':
      return phaseLine(event);
    case 'output':
      return level === 'verbose' ? `${on(event.cell)}| ${clean(event.line)}` : null;
    case 'cell':
      return cellLine(event);
    case 'matrix':
      return matrixLine(event);
    case 'turn':
      return `${on(event.cell)}started on ${clean(event.worker)}`;
    case 'progress':
    case 'course':
      return null;
  }
}

const COMPILES = {
  host: 'VMs are emulated here; their compiler is not: it runs in a sandbox of this machine (--compile guest keeps it in the VM)',
  guest: 'VMs are emulated here, and so is their compiler',
};

/** The first lines of a run: what is there, what it will make, how large, how long. */
export function courseLines({ ahead, there, seconds, compiles }: EventOf<'course'>): string[] {
  const made = ahead.filter(({ kind }) => kind !== 'cell');
  const cells = ahead.length - made.length;
  const work = [...several(made), ...(cells > 0 ? [plural(cells, 'cell')] : [])];
  return [
    ...(there.length > 0 ? [`there already: ${listOf(there)}`] : []),
    ...(work.length > 0 ? [`to do: ${work.join('; ')}; ${about(seconds)} in all`] : []),
    ...(compiles ? [COMPILES[compiles]] : []),
  ];
}

/** At most this many things are named one by one. */
const NAMED = 4;

const listOf = (words: readonly string[]): string =>
  words.length <= NAMED
    ? words.map(clean).join('; ')
    : `${words.slice(0, NAMED).map(clean).join('; ')} and ${words.length - NAMED} more`;

function several(steps: readonly CourseStep[]): string[] {
  const words = steps.map(({ what, bytes }) =>
    bytes === undefined ? what : `${what} (${formatBytes(bytes)} to download)`,
  );
  return words.length === 0 ? [] : [listOf(words)];
}

/** `about 40 s`, `about 4 min`. */
function about(seconds: number): string {
  if (seconds < 90) return `about ${Math.max(5, Math.ceil(seconds / 5) * 5)} s`;
  return `about ${Math.ceil(seconds / 60)} min`;
}

function phaseLine({ cell, phase, state, seconds }: EventOf<'phase'>): string {
  if (state === 'start') return `${on(cell)}${clean(phase)} …`;
  return `${on(cell)}${clean(phase)} done${seconds === undefined ? '' : ` in ${duration(seconds)}`}`;
}

/** Without the package's path, and why a cell failed: they are the result, which is told at the end. */
function cellLine({ cell, verdict, reason }: EventOf<'cell'>): string {
  const bad = verdict === 'failed' || verdict === 'error';
  const more = (bad ? undefined : reason)?.split('\n').find((line) => line.trim() !== '');
  return `${clean(cell)}: ${clean(verdict)}${more === undefined ? '' : ` (${clean(more)})`}`;
}

function matrixLine({ cells }: EventOf<'matrix'>): string {
  const sources = new Set(cells.map(({ source }) => source));
  const kernels = new Set(cells.map(({ distro, kernel }) => `${distro} ${kernel}`));
  return `matrix of ${plural(cells.length, 'cell')}: ${plural(sources.size, 'source')}, ${plural(kernels.size, 'kernel')}`;
}

function duration(seconds: number): string {
  return seconds < 60 ? `${seconds.toFixed(1)} s` : formatClock(seconds);
}

/** `debian-12.qcow2: 45% of 310 MiB`. */
export function progressText(event: { what: string; done: number; total?: number }): string {
  const { done, total } = event;
  if (total === undefined || total <= 0) return `${clean(event.what)}: ${formatBytes(done)}`;
  return `${clean(event.what)}: ${Math.min(100, Math.floor((done / total) * 100))}% of ${formatBytes(total)}`;
}
