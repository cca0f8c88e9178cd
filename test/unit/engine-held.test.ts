import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { CellResult } from '../../src/model/cell.js';
import type { Event } from '../../src/model/events.js';
import { readPublished, readTried, writeTried } from '../../src/engine/published-modules.js';
import { writeProvenance } from '../../src/attest/provenance.js';
import { makeStatement } from '../../src/attest/statement.js';
import type { TriedCell, WantedCell } from '../../src/engine/plan/refresh.js';
import { cell } from './cli-harness.js';
import { facts, FILE, packageBytes, RELEASE } from './provenance-fixture.js';
import { deb } from './repo-fixture.js';

let dir: string;
let warnings: string[];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dk2b-held-'));
  warnings = [];
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const emit = (event: Event): void => {
  if (event.type === 'note') warnings.push(event.message);
};
const read = (): ReturnType<typeof readPublished> =>
  readPublished(dir, { emit, signal: new AbortController().signal });

async function addPackage(more: Parameters<typeof facts>[0] = {}): Promise<void> {
  await writeFile(join(dir, FILE), packageBytes());
  await writeProvenance(join(dir, FILE), makeStatement(facts(more)));
}

test('what a package is made of, by its provenance', async () => {
  await addPackage();
  expect(await read()).toEqual([
    {
      ...{ module: 'acpi_call', version: '1.2.2', kernel: RELEASE, distro: 'debian-12', arch: 'x86_64' },
      source: { kind: 'repo', name: 'acpi-call-dkms' },
      ...{ digest: 'a'.repeat(64), sourceVersion: '1.2.2-2+b1' },
    },
  ]);
  expect(warnings).toEqual([]);
});

test('of a path the last part is known, and no version', async () => {
  await addPackage({
    source: { kind: 'folder', text: '/home/me/src/tiny', digest: { sha256: 'f'.repeat(64) } },
  });
  expect(await read()).toMatchObject([
    { source: { kind: 'folder', name: 'tiny' }, sourceVersion: null, digest: 'f'.repeat(64) },
  ]);
});

test('files that modules share are no module', async () => {
  await addPackage();
  const common = 'acpi-call-modules-common_1.2.2_all.deb';
  const bytes = deb('acpi-call-modules-common', '1.2.2', 'all');
  await writeFile(join(dir, common), bytes);
  const statement = makeStatement(facts());
  const { createHash } = await import('node:crypto');
  statement.subject.find(({ name }) => name === common)!.digest = {
    sha256: createHash('sha256').update(bytes).digest('hex'),
  };
  await writeProvenance(join(dir, common), statement);
  expect(await read()).toHaveLength(1);
  expect(warnings).toEqual([]);
});

test('provenance of other bytes, of another builder or none at all does not count, and is told', async () => {
  await addPackage();
  await writeFile(join(dir, 'other.deb'), deb('other', '1'));
  await writeFile(join(dir, 'swapped.deb'), deb('swapped', '1'));
  await writeProvenance(join(dir, 'swapped.deb'), makeStatement(facts()));
  await writeFile(join(dir, 'damaged.deb'), deb('damaged', '1'));
  await writeFile(join(dir, 'damaged.deb.intoto.jsonl'), '{');
  await writeFile(join(dir, 'cut.deb'), deb('cut', '1').subarray(0, 100));
  expect(await read()).toHaveLength(1);
  const told = warnings.join('\n');
  for (const name of ['other.deb', 'swapped.deb', 'damaged.deb', 'cut.deb']) expect(told).toContain(name);
  expect(told).not.toContain(FILE);
});

test('a package whose provenance went is told with what to do, and the others are read', async () => {
  await addPackage();
  await writeFile(join(dir, 'other.deb'), deb('other', '1'));
  expect(await read()).toHaveLength(1);
  expect(warnings).toEqual([
    expect.stringMatching(/other\.deb \(no other\.deb\.intoto\.jsonl\).*Run the dkms2bin build that made/),
  ]);
  await rm(join(dir, `${FILE}.intoto.jsonl`));
  await expect(read()).rejects.toMatchObject({
    ...{ fault: 'not-found', message: expect.stringContaining(`${FILE}.intoto.jsonl`) as string },
    hint: expect.stringMatching(/dkms2bin build .*writes provenance/) as string,
  });
});

test('a folder with nothing to refresh is not found', async () => {
  await expect(read()).rejects.toMatchObject({
    fault: 'not-found',
    message: expect.stringContaining('No package in') as string,
  });
  await writeFile(join(dir, 'other.deb'), deb('other', '1'));
  await expect(read()).rejects.toMatchObject({
    fault: 'not-found',
    message: expect.stringContaining('provenance') as string,
  });
});

const wanted = (modules: string[]): WantedCell => ({
  ...{ modules, version: null, digest: 'd', distro: 'debian-12', arch: 'x86_64', why: 'new kernel' },
  source: { kind: 'folder', text: './src', path: '/src' },
  kernel: { release: RELEASE, packageVersion: '6.1.192-2', suite: 's' },
});
const tried = (module: string, verdict: TriedCell['verdict'], reason: string): TriedCell => ({
  ...{
    module,
    verdict,
    reason,
    kernel: RELEASE,
    packageVersion: '6.1.192-2',
    distro: 'debian-12',
    arch: 'x86_64',
  },
  digest: 'd',
});
const write = (modules: string[], results: CellResult[], old: TriedCell[] = []): Promise<void> =>
  writeTried(dir, { wanted: [wanted(modules)], tried: old }, results);

test('what gave no package by its own fault is remembered; other faults are not', async () => {
  const of = (module: string, verdict: CellResult['verdict'], reason: string | null = null): CellResult =>
    cell({ module, verdict, reason });
  await write(
    ['a', 'b', 'c', 'd', 'e'],
    [
      of('a', 'built'),
      of('b', 'failed', 'x.c:1: error\nmore'),
      of('c', 'skipped', 'not for it'),
      of('d', 'error', 'mirror'),
    ],
  );
  expect(await readTried(dir, emit)).toEqual([
    tried('b', 'failed', 'x.c:1: error'),
    tried('c', 'skipped', 'not for it'),
    tried('e', 'skipped', 'its source does not bring it any more'),
  ]);
  // Not part of the repository.
  expect((await readdir(dir)).every((name) => name.startsWith('.'))).toBe(true);
});

test('a package that was there already is remembered with its source', async () => {
  await write(['a'], [cell({ module: 'a', reason: 'up to date' })]);
  expect(await readTried(dir, emit)).toEqual([tried('a', 'built', 'up to date')]);
});

test('a source without a report of its modules answers for all of them', async () => {
  await write(['a', 'b'], [cell({ module: './src', verdict: 'failed', reason: 'no dkms.conf' })]);
  expect(await readTried(dir, emit)).toEqual([
    tried('a', 'failed', 'no dkms.conf'),
    tried('b', 'failed', 'no dkms.conf'),
  ]);
  await write(
    ['a'],
    [cell({ module: './src', verdict: 'error', reason: 'no space' })],
    [tried('b', 'failed', 'x')],
  );
  expect(await readTried(dir, emit)).toEqual([tried('b', 'failed', 'x')]);
});

test('one that is built now is forgotten', async () => {
  await write(['a'], [cell({ module: 'a' })], [tried('a', 'failed', 'x')]);
  expect(await readTried(dir, emit)).toEqual([]);
  expect(warnings).toEqual([]);
});

test('a memory that cannot be read is none, and is told', async () => {
  expect(await readTried(dir, emit)).toEqual([]);
  expect(warnings).toEqual([]);
  await write(['a'], [cell({ module: 'a', verdict: 'failed', reason: 'x' })]);
  const file = join(dir, (await readdir(dir))[0]!);
  await writeFile(file, (await readFile(file, 'utf8')).slice(0, 40));
  expect(await readTried(dir, emit)).toEqual([]);
  expect(warnings).toHaveLength(1);
});
