import type { Event } from '../model/events.js';
import { plain } from '../lib/text.js';
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
      return null;
  }
}

function phaseLine({ cell, phase, state, seconds }: EventOf<'phase'>): string {
  if (state === 'start') return `${on(cell)}${clean(phase)} …`;
  return `${on(cell)}${clean(phase)} done${seconds === undefined ? '' : ` in ${duration(seconds)}`}`;
}

/** Without the package's path, which is the result: stdout gets it at the end. */
function cellLine({ cell, verdict, reason }: EventOf<'cell'>): string {
  const more = reason?.split('\n').find((line) => line.trim() !== '');
  return `${clean(cell)}: ${clean(verdict)}${more === undefined ? '' : ` (${clean(more)})`}`;
}

function matrixLine({ cells }: EventOf<'matrix'>): string {
  const sources = new Set(cells.map(({ source }) => source));
  const kernels = new Set(cells.map(({ distro, kernel }) => `${distro} ${kernel}`));
  return `matrix of ${cells.length} cells: ${sources.size} sources, ${kernels.size} kernels`;
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
