import type { Event } from '../model/events.js';
import { formatClock } from '../lib/units.js';
import { Course } from './course.js';
import { courseLines, lineOf, progressText } from './lines.js';
import { LiveWork } from './live-work.js';
import { MatrixView } from './matrix-view.js';
import type { Output, Ui, UiOptions } from './ui.js';

/** One progress line per thing and this many milliseconds; its end is always told. */
const PROGRESS_EVERY_MS = 10_000;

/** Work of which nothing is heard for so long is told of: it is not dead. */
const HEARTBEAT_MS = 30_000;
/** Lines of a heartbeat. */
const HEARTBEAT_LINES = 3;

/** Lines with the elapsed time: `[ 1:02] acpi-call 6.1.0-56-amd64: build …`. For pipes, CI and --verbose. */
export function plainUi(output: Output, options: UiOptions): Ui {
  const now = options.now ?? Date.now;
  const started = now();
  const toldAt = new Map<string, number>();
  const work = new LiveWork(now);
  let course: Course | null = null;
  let saidAt = started;
  let matrix: MatrixView | null = null;
  let closed = false;
  let held: string[] | null = null;

  const say = (text: string): void => {
    const line = `[${formatClock((now() - started) / 1000).padStart(5)}] ${text}\n`;
    saidAt = now();
    if (held) held.push(line);
    else output.write(line);
  };

  const heartbeat = (): void => {
    if (held || now() - saidAt < HEARTBEAT_MS) return;
    work.forgetStale();
    const lines = work.lines();
    for (const line of lines.slice(0, HEARTBEAT_LINES)) say(`still at it: ${line}`);
    if (lines.length > HEARTBEAT_LINES) say(`and ${lines.length - HEARTBEAT_LINES} more`);
    if (course && !course.over && !matrix)
      say(`${lines.length > 0 ? 'in all: ' : 'still at it: '}${course.text()}`);
  };
  const beating = options.level === 'quiet' ? undefined : setInterval(heartbeat, 1000);
  beating?.unref();

  const sayProgress = (event: Extract<Event, { type: 'progress' }>): void => {
    if (options.level === 'quiet') return;
    const last = toldAt.get(event.what);
    const ended = event.total !== undefined && event.done >= event.total;
    if (last === Infinity || (last !== undefined && !ended && now() - last < PROGRESS_EVERY_MS)) return;
    toldAt.set(event.what, ended ? Infinity : now());
    say(progressText(event));
  };

  const begin = (event: Extract<Event, { type: 'course' }>): void => {
    course = new Course(event, now);
    if (options.level !== 'quiet') for (const line of courseLines(event)) say(line);
  };

  return {
    emit(event) {
      if (closed) return;
      if (event.type === 'course') return begin(event);
      work.add(event);
      course?.add(event);
      if (event.type === 'progress') return sayProgress(event);
      if (event.type === 'matrix') matrix = new MatrixView(event);
      // A matrix has too many for a log that people read.
      if (matrix && event.type === 'phase' && event.cell !== undefined && options.level !== 'verbose') return;
      matrix?.add(event, now());
      const line = lineOf(event, options.level);
      const count = matrix && event.type === 'cell' ? ` [${matrix.done}/${matrix.total}]` : '';
      if (line !== null) say(`${line}${count}`);
    },
    say(text) {
      if (!closed) say(text);
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
      clearInterval(beating);
      closed = true;
    },
  };
}
