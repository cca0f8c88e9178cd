import { execa } from 'execa';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FIXTURES, kernels, ROAD, temporary, tool, type Document } from './tool.js';

let kernel = '';
let out = '';
const states: string[] = [];

beforeAll(async () => {
  kernel = (await kernels()).newest;
  out = await temporary('out');
  states.push(await temporary('state'), await temporary('state'));
});

afterAll(async () => {
  for (const dir of [out, ...states]) await rm(dir, { recursive: true, force: true });
});

/** Builds into a folder of its own; the run's folder is the n-th. */
async function build(n: number, sources: string[], ...more: string[]) {
  const dir = join(out, String(n));
  const dkms = sources.flatMap((name) => ['--dkms', join(FIXTURES, name)]);
  const args = [...dkms, ...ROAD, '--kernel', kernel, '--out-dir', dir, '--no-verify', '--json', ...more];
  const ended = await tool(args, { env: { DKMS2BIN_STATE: states[n]! } });
  const { cells } = JSON.parse(ended.stdout) as Document;
  return { dir, ended, by: new Map(cells.map((cell) => [cell.module, cell])) };
}

test('a module that tells its time of build is found out; another one comes out the same wherever, whenever and however it is built', async () => {
  const checked = await build(0, ['tiny', 'clock'], '--check-reproducible', '--debug-symbols', '--jobs', '1');
  const tiny = checked.by.get('dk2b-tiny')!;
  expect(tiny, checked.ended.stderr).toMatchObject({ verdict: 'built', reproducible: true });
  expect(tiny.phases.rebuild).toBeGreaterThan(0);

  const clock = checked.by.get('dk2b-clock')!;
  expect(clock, checked.ended.stderr).toMatchObject({
    verdict: 'failed',
    reproducible: false,
    package: null,
  });
  const times =
    /^not reproducible: dk2b_clock\.ko differs first in section \.rodata\.\S+ at 0x\w+: '.*built (\S+) .*' \/ '.*built (\S+) .*'/.exec(
      clock.reason!,
    );
  const [, first, second] = times!;
  const days = (Date.parse(second!) - Date.parse(first!)) / 86_400_000;
  expect(days).toBeGreaterThan(300);
  const base = `dk2b-clock_1.0-${kernel}_x86_64`;
  const kept = await readdir(join(checked.dir, `${base}.reproducibility`));
  expect(kept).toEqual(expect.arrayContaining(['difference.txt', `${base}.deb.first`, `${base}.deb.second`]));
  const packages = (await readdir(checked.dir)).filter((name) => name.endsWith('.deb')).sort();
  const symbols = `dk2b-tiny-modules-${kernel}-dbgsym_1.0_amd64.deb`;
  expect(packages).toEqual([symbols, `dk2b-tiny_1.0-${kernel}_x86_64.deb`].sort());
  expect(checked.ended.code).toBe(1);

  // Another state folder, today's date, a clone of the snapshot, other --jobs, no debug symbols: the same package.
  const plain = await build(1, ['tiny'], '--force', '--jobs', '2');
  const file = plain.by.get('dk2b-tiny')!.package!;
  expect((await readdir(plain.dir)).filter((name) => name.endsWith('.deb'))).toHaveLength(1);
  expect(Buffer.compare(await readFile(file), await readFile(tiny.package!))).toBe(0);

  // The debug symbols are those of that module, and name its source.
  const root = join(out, 'root');
  for (const deb of [file, join(checked.dir, symbols)]) await execa('dpkg-deb', ['-x', deb, root]);
  const ko = join(root, `lib/modules/${kernel}/updates/dkms/dk2b_tiny.ko`);
  const idOf = async (path: string) =>
    /Build ID: (\w+)/.exec((await execa('readelf', ['-n', path])).stdout)![1]!;
  const id = await idOf(ko);
  const debug = join(root, `usr/lib/debug/.build-id/${id.slice(0, 2)}/${id.slice(2)}.debug`);
  expect(await idOf(debug)).toBe(id);
  const { stdout } = await execa('readelf', ['--debug-dump=info', debug]);
  expect(stdout).toContain('dk2b_tiny.c');
});
