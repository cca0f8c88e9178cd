import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { EXIT_CODE } from '../../../src/model/errors.js';
import { exitCodeOf } from '../../../src/report/exit.js';
import { failureText, resultLines } from '../../../src/report/text.js';
import { createUi } from '../../../src/ui/index.js';
import { plainUi } from '../../../src/ui/plain.js';
import { ttyUi } from '../../../src/ui/tty.js';
import { cell, Screen } from '../fixtures/cli-harness.js';

describe('exit code', () => {
  const error = (fault: keyof typeof EXIT_CODE) => cell({ verdict: 'error', fault });
  const failed = cell({ verdict: 'failed', fault: 'module' });
  test.each([
    [[], 0],
    [[cell(), cell({ verdict: 'skipped' })], 0],
    [[cell(), failed], 1],
    [[failed, error('transient')], 5],
    [[error('usage'), error('transient'), failed], 2],
    [[error('not-found'), error('usage')], 3],
    [[error('host'), error('not-found')], 4],
    [[error('host'), error('interrupted')], 130],
    [[cell({ verdict: 'error' })], 5],
    [[cell({ verdict: 'failed' })], 1],
  ])('%#', (cells, code) => expect(exitCodeOf(cells)).toBe(code));
});

describe('report', () => {
  test('a name or a path from the guest cannot forge a line', () => {
    const lines = resultLines([cell({ module: 'a\nbuilt   b', package: '/x\x1b[1A\ny' })]);
    expect(lines.split('\n')).toHaveLength(2);
    expect(lines).toMatch(/\/x y\n$/);
  });
  test('the packages that go with one follow it, what several kernels share once', () => {
    const of = (kernel: string, ...other: string[]) =>
      cell({
        module: 'm',
        kernel,
        package: `/out/m-${kernel}.deb`,
        otherPackages: ['/out/common.deb', ...other],
      });
    expect(resultLines([of('6.1.0-1', '/out/dbg.deb'), of('6.1.0-10')])).toBe(
      [
        'built   m 1.2.2  6.1.0-1   /out/m-6.1.0-1.deb',
        'with                       /out/common.deb',
        'with                       /out/dbg.deb',
        'built   m 1.2.2  6.1.0-10  /out/m-6.1.0-10.deb',
        '',
      ].join('\n'),
    );
  });
  test('built and skipped have nothing to explain', () => {
    expect(failureText(cell())).toBe('');
    expect(failureText(cell({ verdict: 'failed', kept: null }))).toContain('--keep-failed');
  });
});

describe('plain', () => {
  test('lines carry the elapsed time and no control bytes; progress is rare and its end is told once', () => {
    let ms = 0;
    const out = new Screen();
    const ui = plainUi(out, { level: 'normal', now: () => ms });
    ui.emit({ type: 'phase', state: 'start', phase: 'build', cell: 'acpi_call' });
    ms = 62_000;
    ui.emit({ type: 'note', level: 'warn', message: 'odd \x1b]0;pwn\x07\nline' });
    ui.emit({ type: 'note', level: 'debug', message: 'hidden' });
    ui.emit({ type: 'output', line: 'hidden' });
    for (let i = 0; i <= 100; i += 1) ui.emit({ type: 'progress', what: 'disk', done: i, total: 100 });
    ui.emit({ type: 'progress', what: 'disk', done: 100, total: 100 });
    ui.close();
    expect(out.text.split('\n')).toEqual([
      '[ 0:00] acpi_call: build …',
      expect.stringMatching(/^\[ 1:02\] warning: odd .*line$/),
      '[ 1:02] disk: 0% of 100 B',
      '[ 1:02] disk: 100% of 100 B',
      '',
    ]);
    expect(out.text).not.toMatch(/[\x1b\x07]/);
  });

  test('quiet tells warnings only; verbose tells output; a pause holds lines back', () => {
    const quiet = new Screen();
    const verbose = new Screen();
    for (const [out, level] of [
      [quiet, 'quiet'],
      [verbose, 'verbose'],
    ] as const) {
      const ui = plainUi(out, { level });
      ui.pause();
      ui.emit({ type: 'note', level: 'info', message: 'info' });
      ui.emit({ type: 'note', level: 'warn', message: 'look' });
      ui.emit({ type: 'output', cell: 'c', line: 'CC x.o' });
      expect(out.text).toBe('');
      ui.resume();
    }
    expect(quiet.text).toMatch(/^\[ 0:00\] warning: look\n$/);
    expect(verbose.text).toContain('c: | CC x.o');
  });
});

describe('tty', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  test('a narrower terminal has wrapped the lines: all their rows are wiped, and they are drawn at once', () => {
    const out = new Screen();
    const ui = ttyUi(out, { level: 'normal' });
    ui.emit({ type: 'phase', state: 'start', phase: 'build', cell: 'a'.repeat(75) });
    vi.advanceTimersByTime(100);
    out.columns = 40;
    out.text = '';
    vi.advanceTimersByTime(100);
    expect(out.text).toMatch(/^\x1b\[3A\r\x1b\[Ja{38}…\n$/);
    ui.close();
  });

  test('a line of the command itself stays above the live ones, and waits while they are paused', () => {
    const out = new Screen();
    const ui = ttyUi(out, { level: 'quiet' });
    ui.say('stopping…');
    ui.pause();
    ui.say('held');
    expect(out.text).toMatch(/^\[ 0:00\] stopping…\n$/);
    ui.close();
    expect(out.text).toMatch(/\] held\n$/);
  });

  test('redraws at most ten times a second, within the width, and leaves nothing behind', () => {
    const out = new Screen();
    out.columns = 40;
    const ui = ttyUi(out, { level: 'normal' });
    ui.emit({ type: 'phase', state: 'start', phase: 'build', cell: 'acpi_call' });
    let writes = 0;
    const write = out.write.bind(out);
    out.write = (text) => {
      writes += 1;
      return write(text);
    };
    for (let i = 0; i < 1000; i += 1) {
      ui.emit({
        type: 'output',
        cell: 'acpi_call',
        line: `CC [M] /a/very/long/path/of/a/file/number/${i}.o`,
      });
      vi.advanceTimersByTime(1);
    }
    expect(writes).toBeLessThanOrEqual(10);
    expect(writes).toBeGreaterThan(5);
    const lines = out.text.replace(/\x1b\[\d*[AJ]|\r/g, '').split('\n');
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(40);
    expect(lines[0]).toMatch(/^acpi_call {2}build 0:00 {2}CC/);
    ui.emit({ type: 'cell', cell: 'acpi_call', verdict: 'built', package: '/p.deb' });
    expect(out.text).toMatch(/acpi_call: built\n$/);
    ui.close();
    const end = out.text;
    ui.emit({ type: 'note', level: 'warn', message: 'late' });
    vi.advanceTimersByTime(5000);
    expect(out.text).toBe(end);
  });

  test('stands still while paused', () => {
    const out = new Screen();
    const ui = ttyUi(out, { level: 'normal' });
    ui.emit({ type: 'phase', state: 'start', phase: 'build', cell: 'a' });
    vi.advanceTimersByTime(200);
    ui.pause();
    const still = out.text;
    ui.emit({ type: 'note', level: 'warn', message: 'meanwhile' });
    vi.advanceTimersByTime(3000);
    expect(out.text).toBe(still);
    ui.resume();
    expect(out.text).toContain('warning: meanwhile');
    ui.close();
  });

  test('only on a real terminal outside CI', () => {
    const out = new Screen();
    out.isTTY = true;
    const text = (env: Record<string, string>): string => {
      out.text = '';
      const ui = createUi(out, { level: 'normal' }, env);
      ui.emit({ type: 'phase', state: 'start', phase: 'build' });
      vi.advanceTimersByTime(300);
      ui.close();
      return out.text;
    };
    expect(text({ TERM: 'xterm' })).toContain('\x1b[');
    expect(text({ TERM: 'xterm', CI: 'true' })).not.toContain('\x1b[');
    expect(text({ TERM: 'dumb' })).not.toContain('\x1b[');
  });
});
