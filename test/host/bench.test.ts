import { execa } from 'execa';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { tempFolder } from '../unit/fixtures/repository.js';

// The benchmark's own road: what it is asked for, what it says of it. Figures of VMs are run by hand: npm run bench.
const BENCH = fileURLToPath(new URL('../../scripts/bench.mjs', import.meta.url));
const bench = (...args: string[]) => execa(process.execPath, [BENCH, ...args], { reject: false });

let tmp: ReturnType<typeof tempFolder>;
beforeEach(() => (tmp = tempFolder()));
afterEach(() => tmp.remove());

test('each figure that needs no VM runs by itself, and comes as a table and as JSON', async () => {
  for (const name of ['help', 'confinement']) {
    const json = join(tmp.path, `${name}.json`);
    const ended = await bench('--only', name, '--rounds', '1', '--json', json);
    expect(ended.exitCode, ended.stderr).toBe(0);
    const { figures, missing, samples } = JSON.parse(readFileSync(json, 'utf8')) as {
      figures: { figure: string; what: string; values: number[] }[];
      missing: unknown[];
      samples: Record<string, unknown[]>;
    };
    expect(missing).toEqual([]);
    expect(new Set(figures.map(({ figure }) => figure))).toEqual(new Set([name]));
    for (const { what, values } of figures) {
      expect(ended.stdout).toContain(what);
      expect(values.every(Number.isFinite)).toBe(true);
    }
    expect(Object.values(samples).flat().length).toBeGreaterThan(0);
  }
});

test('what it cannot measure is told, with the reason', async () => {
  const nowhere = { DKMS2BIN_CATALOGUE: join(tmp.path, 'nowhere') };
  const args = ['--only', 'native,help', '--rounds', '1'];
  const ended = await execa(process.execPath, [BENCH, ...args], { reject: false, env: nowhere });
  expect(ended.exitCode).toBe(1);
  expect(ended.stdout).toMatch(/^native: failed: dkms2bin kernels ended with 2/m);
  expect(ended.stdout).toMatch(/^help +dkms2bin --help/m);
});

test.each([
  [['--only', 'speed'], /--only speed: not one of .*compile/],
  [['--modules', 'nvidia'], /--modules nvidia: not one of acpi-call, tiny/],
  [['--quick', '--rounds', '2'], /--quick has one round/],
])('%j is refused, with what there is', async (args, said) => {
  const ended = await bench(...args);
  expect(ended.exitCode).toBe(2);
  expect(ended.stderr).toMatch(said);
});
