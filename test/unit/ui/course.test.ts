import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { CourseStep, Event } from '../../../src/model/events.js';
import { Course } from '../../../src/ui/course.js';
import { courseLines } from '../../../src/ui/lines.js';
import { plainUi } from '../../../src/ui/plain.js';
import { ttyUi } from '../../../src/ui/tty.js';
import { Screen } from '../fixtures/cli-harness.js';

type CourseEvent = Extract<Event, { type: 'course' }>;

const IMAGE: CourseStep = {
  kind: 'download',
  key: 'd image',
  what: 'official d image',
  seconds: 40,
  image: true,
};
const LAYER: CourseStep = {
  kind: 'stage',
  key: 'kernel layer 6',
  what: 'kernel layer 6',
  seconds: 40,
  lines: 100,
};
const SNAPSHOT: CourseStep = {
  kind: 'stage',
  key: 'memory snapshot 6',
  what: 'memory snapshot 6',
  seconds: 80,
};
const CELL: CourseStep = { kind: 'cell', key: 'a × 6', what: 'a × 6', seconds: 40 };
const courseOf = (...ahead: CourseStep[]): CourseEvent => ({
  type: 'course',
  ahead,
  there: [],
  seconds: ahead.reduce((sum, { seconds }) => sum + seconds, 0),
});
const phase = (state: 'start' | 'end', name: string, cell?: string): Event =>
  ({ type: 'phase', state, phase: name, ...(cell && { cell }) }) as Event;

describe('course', () => {
  let now = 0;
  const begun = (event: CourseEvent): Course => {
    now = 0;
    return new Course(event, () => now);
  };
  const percent = (course: Course): number => Math.floor(course.fraction() * 100);

  test('moves within each step: by bytes, by lines and time, and by time alone', () => {
    const course = begun(courseOf(IMAGE, LAYER, SNAPSHOT, CELL));
    expect(percent(course)).toBe(0);
    course.add({ type: 'progress', what: 'd image', done: 50, total: 100 });
    expect(percent(course)).toBe(10);
    course.add({ type: 'progress', what: 'd image', done: 100, total: 100 });
    expect(percent(course)).toBe(20);
    course.add(phase('start', 'kernel layer 6'));
    for (let line = 0; line < 50; line += 1) course.add({ type: 'output', line: 'Unpacking' });
    const byLines = percent(course);
    now += 20_000;
    expect([byLines, percent(course)]).toEqual([25, 30]);
    course.add(phase('end', 'kernel layer 6'));
    course.add(phase('start', 'memory snapshot 6'));
    now += 40_000;
    expect(percent(course)).toBe(60);
    course.add(phase('end', 'memory snapshot 6'));
    course.add(phase('start', 'boot', 'a × 6'));
    course.add(phase('end', 'boot', 'a × 6'));
    now += 20_000;
    expect(percent(course)).toBe(90);
    expect(course.over).toBe(false);
    course.add({ type: 'cell', cell: 'a × 6', verdict: 'built' });
    expect([course.over, course.fraction()]).toEqual([true, 1]);
  });

  test('a step that takes for ever still moves, is never done before it is, and nothing goes back', () => {
    const course = begun(courseOf(SNAPSHOT));
    course.add(phase('start', 'memory snapshot 6'));
    const seen = Array.from({ length: 200 }, () => {
      now += 5000;
      return course.fraction();
    });
    expect(seen).toEqual(seen.toSorted((a, b) => a - b));
    expect(new Set(seen.slice(0, 30)).size).toBe(30);
    expect(seen.at(-1)).toBeLessThan(1);
    expect(course.text()).toBe('99%, longer than expected');
    const restarted = begun(courseOf(IMAGE, CELL));
    restarted.add({ type: 'progress', what: 'd image', done: 80, total: 100 });
    const before = restarted.fraction();
    // The server starts from the beginning.
    restarted.add({ type: 'progress', what: 'd image', done: 1, total: 100 });
    expect(restarted.fraction()).toBe(before);
  });

  test('an image that was had another way than thought is had', () => {
    const course = begun(courseOf(IMAGE, LAYER));
    course.add(phase('start', 'bootstrap packages'));
    expect(percent(course)).toBe(0);
    course.add(phase('start', 'kernel layer 6'));
    expect(percent(course)).toBe(50);
  });

  test('what is left follows the pace', () => {
    const course = begun(courseOf(LAYER, SNAPSHOT));
    course.add(phase('start', 'kernel layer 6'));
    now += 80_000;
    course.add(phase('end', 'kernel layer 6'));
    expect(course.left()).toBe(160);
    expect(course.text()).toBe('33%, about 2:40 left');
  });
});

test('the first lines say what is there, what is made, how large and how long', () => {
  const lines = (event: Partial<CourseEvent>): string[] => courseLines({ ...courseOf(), ...event });
  expect(
    lines({ ahead: [{ ...IMAGE, bytes: 350 * 2 ** 20 }, LAYER, SNAPSHOT, CELL], seconds: 200, there: [] }),
  ).toEqual([
    'to do: official d image (350 MiB to download); kernel layer 6; memory snapshot 6; 1 cell; about 4 min in all',
  ]);
  expect(
    lines({ ahead: [CELL], seconds: 38, there: ['official image of d', 'layer and snapshot of 6'] }),
  ).toEqual([
    'there already: official image of d; layer and snapshot of 6',
    'to do: 1 cell; about 40 s in all',
  ]);
  const many = Array.from({ length: 9 }, (_, at) => ({ ...LAYER, what: `layer ${at}` }));
  expect(lines({ ahead: many, seconds: 999 })[0]).toContain('layer 3 and 5 more; about 17 min');
});

describe('shown', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  test('on a terminal: one bar under the live lines, gone with them', () => {
    const out = new Screen();
    const ui = ttyUi(out, { level: 'normal' });
    ui.emit(courseOf(SNAPSHOT, CELL));
    ui.emit(phase('start', 'memory snapshot 6'));
    vi.advanceTimersByTime(40_000);
    const last = out.text.slice(out.text.lastIndexOf('\x1b[J') + 3);
    expect(last).toMatch(/^memory snapshot 6 0:\d\d\n█+░+ 3\d%, about 1:\d\d left\n$/);
    ui.emit(phase('end', 'memory snapshot 6'));
    ui.emit({ type: 'cell', cell: 'a × 6', verdict: 'built' });
    vi.advanceTimersByTime(1000);
    expect(out.text.slice(out.text.lastIndexOf('\x1b[J') + 3)).not.toContain('█');
    ui.close();
  });

  test('plain: what is silent for half a minute is told of, with how far all is; quiet never', () => {
    const [out, quiet] = [new Screen(), new Screen()];
    const uis = [plainUi(out, { level: 'normal' }), plainUi(quiet, { level: 'quiet' })];
    for (const ui of uis) {
      ui.emit(courseOf(SNAPSHOT, CELL));
      ui.emit(phase('start', 'memory snapshot 6'));
      vi.advanceTimersByTime(10_000);
      ui.emit({ type: 'output', line: 'Starting ssh' });
    }
    // Both have their own clock; this one began first.
    vi.advanceTimersByTime(25_000);
    expect(out.text).toMatch(
      /\[ 0:30\] still at it: memory snapshot 6 0:30 {2}Starting ssh\n\[ 0:30\] in all: 2\d%, about 1:\d\d left\n/,
    );
    vi.advanceTimersByTime(60_000);
    expect(out.text.match(/still at it/g)).toHaveLength(3);
    for (const ui of uis) ui.close();
    vi.advanceTimersByTime(120_000);
    expect(out.text.match(/still at it/g)).toHaveLength(3);
    expect(quiet.text).toBe('');
  });

  test('plain: nothing is said of a command that waits for others', () => {
    const out = new Screen();
    const ui = plainUi(out, { level: 'normal' });
    vi.advanceTimersByTime(120_000);
    expect(out.text).toBe('');
    ui.close();
  });
});
