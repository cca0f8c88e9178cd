import type { Event } from '../model/events.js';
import { formatClock } from '../lib/units.js';
import { lineOf, progressText } from './lines.js';
import { MatrixView } from './matrix-view.js';
import type { Output, Ui, UiOptions } from './ui.js';

/** One progress line per thing and this many milliseconds; its end is always told. */
const PROGRESS_EVERY_MS = 10_000;

/** Lines with the elapsed time: `[ 1:02] acpi-call 6.1.0-56-amd64: build …`. For pipes, CI and --verbose. */
export function plainUi(output: Output, options: UiOptions): Ui {
  const now = options.now ?? Date.now;
  const started = now();
  const toldAt = new Map<string, number>();
  let matrix: MatrixView | null = null;
  let closed = false;
  let held: string[] | null = null;

  const say = (text: string): void => {
    const line = `[${formatClock((now() - started) / 1000).padStart(5)}] ${text}\n`;
    if (held) held.push(line);
    else output.write(line);
  };

  const sayProgress = (event: Extract<Event, { type: 'progress' }>): void => {
    if (options.level === 'quiet') return;
    const last = toldAt.get(event.what);
    const ended = event.total !== undefined && event.done >= event.total;
    if (last === Infinity || (last !== undefined && !ended && now() - last < PROGRESS_EVERY_MS)) return;
    toldAt.set(event.what, ended ? Infinity : now());
    say(progressText(event));
  };

  return {
    emit(event) {
      if (closed) return;
      if (event.type === 'progress') return sayProgress(event);
      if (event.type === 'matrix') matrix = new MatrixView(event);
      // A matrix has too many for a log that people read.
      if (matrix && event.type === 'phase' && event.cell !== undefined && options.level !== 'verbose') return;
      matrix?.add(event, now());
      const line = lineOf(event, options.level);
      const count = matrix && event.type === 'cell' ? ` [${matrix.done}/${matrix.total}]` : '';
      if (line !== null) say(`${line}${count}`);
    },
    pause() {
      held ??= [];
    },
    resume() {
      for (const line of held ?? []) output.write(line);
      held = null;
    },
    close() {
      this.resume();
      closed = true;
    },
  };
}
