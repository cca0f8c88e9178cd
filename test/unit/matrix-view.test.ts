import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Event } from '../../src/model/events.js';
import type { CellStage } from '../../src/model/stages.js';
import { plainUi } from '../../src/ui/plain.js';
import { ttyUi } from '../../src/ui/tty.js';
import { Screen } from './cli-harness.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const name = (source: string, kernel: string): string => `${source} × ${kernel}`;

function matrix(sources: string[], kernels: string[], seconds: number | null = null): Event {
  return {
    type: 'matrix',
    cells: kernels.flatMap((kernel) =>
      sources.map((source) => ({
        ...{ cell: name(source, kernel), source, kernel, distro: 'debian-12', seconds, outcomes: [] },
      })),
    ),
  };
}

class Live {
  readonly out = new Screen();
  readonly ui;
  constructor(columns: number, rows: number) {
    Object.assign(this.out, { columns, rows });
    this.ui = ttyUi(this.out, { level: 'normal' });
  }

  emit(...events: Event[]): this {
    for (const event of events) this.ui.emit(event);
    return this;
  }

  /** The block that is on the screen. */
  block(): string[] {
    vi.advanceTimersByTime(150);
    return this.out.text.split('\x1b[J').at(-1)!.split('\n').slice(0, -1);
  }
}

const begin = (cell: string, phase: CellStage = 'dkms'): Event[] => [
  { type: 'turn', cell, worker: 'w' },
  { type: 'phase', state: 'start', phase, cell },
];
const end = (cell: string, verdict: string): Event => ({ type: 'cell', cell, verdict });
const KERNELS = ['6.1.0-56-amd64', '6.1.0-55-amd64'];
const [A56, A55, B56] = [name('a', KERNELS[0]!), name('a', KERNELS[1]!), name('b', KERNELS[0]!)];

describe('on a terminal', () => {
  test('a table of kernels and modules, what one job says, and the sum', () => {
    const live = new Live(100, 24).emit(
      matrix(['a', 'b'], KERNELS),
      ...begin(A56),
      end(A56, 'built'),
      ...begin(B56),
      { type: 'output', cell: B56, line: 'CC [M] b.o\x1b[2J' },
    );
    const block = live.block();
    expect(block[0]).toMatch(/^ +6\.1\.0-56-amd64 +6\.1\.0-55-amd64$/);
    expect(block[1]).toMatch(/^a +✓ built +·$/);
    expect(block[2]).toMatch(/^b +▸ dkms 0:00 +·$/);
    expect(block[3]).toBe('  │ CC [M] b.o');
    expect(block[4]).toMatch(/^█+░+ 1\/4 .*✓ 1 built$/);
  });

  test.each([
    [100, 24, 2, 2],
    [60, 24, 5, 9],
    [40, 8, 30, 9],
    [30, 5, 200, 3],
    [24, 3, 200, 40],
  ])('fits %i columns and %i rows, however many cells', (columns, rows, sources, kernels) => {
    const modules = Array.from({ length: sources }, (_, i) => `a-very-long-name-of-a-module-${i}-dkms`);
    const releases = Array.from({ length: kernels }, (_, i) => `6.1.0-${i}-amd64`);
    const live = new Live(columns, rows).emit(matrix(modules, releases));
    for (const module of modules.slice(0, 10)) live.emit(...begin(name(module, releases[0]!)));
    const block = live.block();
    expect(block.length).toBeLessThan(rows);
    for (const line of block) expect([...line].length).toBeLessThan(columns);
    expect(block.at(-1)).toMatch(/^[█░]/);
  });

  test('layers that are made at the same time have a line each', () => {
    const phase = (kernel: string): Event => ({
      type: 'phase',
      state: 'start',
      phase: `kernel layer ${kernel}`,
    });
    const block = new Live(100, 24).emit(matrix(['a'], KERNELS), ...KERNELS.map(phase)).block();
    for (const kernel of KERNELS) expect(block.join('\n')).toMatch(new RegExp(`kernel layer ${kernel} 0:00`));
  });

  test('the estimate is by recorded times and the VMs side by side; there is none when a cell is new', () => {
    const known = new Live(200, 24).emit(matrix(['a', 'b'], KERNELS, 60), ...begin(A56), ...begin(B56));
    expect(known.block().at(-1)).toMatch(/about [12]:\d\d left/);
    vi.advanceTimersByTime(60_000);
    known.emit(end(A56, 'built'), end(B56, 'failed'), ...begin(A55));
    expect(known.block().at(-1)).toMatch(/ 2\/4 {2}about (1:00|0:59) left/);
    const unknown = new Live(200, 24).emit(matrix(['a', 'b'], KERNELS, null), ...begin(A56));
    expect(unknown.block().at(-1)).toMatch(/time left unknown: 4 never built before/);
  });

  test('a source with several modules counts once, as its worst one', () => {
    const live = new Live(100, 24).emit(matrix(['a', 'b'], KERNELS), ...begin(A56));
    live.emit(end(A56, 'built'), end(A56, 'failed'));
    expect(live.block().at(-1)).toMatch(/ 1\/4 .*✗ 1 failed$/);
  });
});

test('in a pipe: a line when a cell begins and one when it ends, not its phases', () => {
  const out = new Screen();
  const ui = plainUi(out, { level: 'normal', now: () => 0 });
  for (const event of [matrix(['a', 'b'], KERNELS), ...begin(A56), end(A56, 'built'), end(B56, 'up-to-date')])
    ui.emit(event);
  expect(out.text.split('\n').map((line) => line.replace(/^\[.*?\] /, ''))).toEqual([
    'matrix of 4 cells: 2 sources, 2 kernels',
    ...[`${A56}: started on w`, `${A56}: built [1/4]`, `${B56}: up-to-date [2/4]`, ''],
  ]);
});
