import type { Event } from '../model/events.js';
import { plain } from '../lib/text.js';
import { formatBytes, formatClock } from '../lib/units.js';
import type { Level } from './ui.js';

/** Guest text on one line, without control bytes; tabs and line breaks become blanks. */
export function clean(text: string): string {
  return plain(text).replace(/\s+/g, ' ').trimEnd();
}

const on = (cell: string | undefined): string => (cell === undefined ? '' : `${clean(cell)}: `);

/** The line that an event is worth at this level, or null. Progress is not a line: see `progressText`. */
export function lineOf(event: Event, level: Level): string | null {
  switch (event.type) {
    case 'note':
      if (event.level === 'warn') return `${on(event.cell)}warning: ${clean(event.message)}`;
      if (level === 'quiet' || (event.level === 'debug' && level !== 'verbose')) return null;
      return `${on(event.cell)}${clean(event.message)}`;
    case 'phase': {
      if (level === 'quiet') return null;
      if (event.state === 'start') return `${on(event.cell)}${clean(event.phase)} …`;
      const took = event.seconds === undefined ? '' : ` in ${duration(event.seconds)}`;
      return `${on(event.cell)}${clean(event.phase)} done${took}`;
    }
    case 'output':
      return level === 'verbose' ? `${on(event.cell)}| ${clean(event.line)}` : null;
    case 'cell': {
      if (level === 'quiet') return null;
      // The package's path, and why a cell failed, are the result, which is told at the end.
      const bad = event.verdict === 'failed' || event.verdict === 'error';
      const more = (bad ? undefined : event.reason)?.split('\n').find((line) => line.trim() !== '');
      return `${clean(event.cell)}: ${clean(event.verdict)}${more === undefined ? '' : ` (${clean(more)})`}`;
    }
    case 'matrix': {
      if (level === 'quiet') return null;
      const count = (values: string[]): number => new Set(values).size;
      const sources = count(event.cells.map(({ source }) => source));
      const kernels = count(event.cells.map(({ distro, kernel }) => `${distro} ${kernel}`));
      return `matrix of ${event.cells.length} cells: ${sources} sources, ${kernels} kernels`;
    }
    case 'turn':
      return level === 'quiet' ? null : `${on(event.cell)}begun on ${clean(event.worker)}`;
    case 'progress':
      return null;
  }
}

export function duration(seconds: number): string {
  return seconds < 60 ? `${seconds.toFixed(1)} s` : formatClock(seconds);
}

/** `debian-12.qcow2: 45% of 310 MiB`. */
export function progressText(event: { what: string; done: number; total?: number }): string {
  const { done, total } = event;
  if (total === undefined || total <= 0) return `${clean(event.what)}: ${formatBytes(done)}`;
  return `${clean(event.what)}: ${Math.min(100, Math.floor((done / total) * 100))}% of ${formatBytes(total)}`;
}
