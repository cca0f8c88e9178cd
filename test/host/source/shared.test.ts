import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openStore } from '../../../src/lib/object-store/index.js';
import { fetchSource, shareSource } from '../../../src/engine/queue/sources.js';
import { jobIdOf, parseJob, type CellJob } from '../../../src/engine/queue/protocol.js';
import type { ModuleSource } from '../../../src/model/cell.js';

let dir: string;
beforeEach(async () => void (dir = await mkdtemp(join(tmpdir(), 'shared-'))));
afterEach(() => rm(dir, { recursive: true, force: true }));

const job = (source: unknown): CellJob =>
  parseJob({
    ...{ source, otherSources: [], kernel: { release: '6.1.0-1-amd64' }, kernelPackages: [] },
    buildPackages: [{ name: 'bc' }, { file: 'x.deb', sha256: 'a'.repeat(64) }],
    need: { distro: 'debian-12', arch: 'x86_64', accelerator: null, signer: null },
    ...{ image: 'auto', nameStyle: 'release', verify: true, strict: false, debugSymbols: false },
    checkReproducible: false,
    timeoutSeconds: 60,
  });

test('a worker gets a fetched source out of the store, with its commit, and asks no repository', async () => {
  const signal = new AbortController().signal;
  const store = await openStore(join(dir, 'store'), { emit: () => undefined });
  await writeFile(join(dir, 'r.tar'), 'tar');
  const origin = { url: 'https://forge.example/o/r.git', commit: '1'.repeat(40) };
  const source: ModuleSource = {
    kind: 'tarball',
    text: `${origin.url}#main`,
    path: join(dir, 'r.tar'),
    origin,
  };
  const shared = await shareSource(source, store, dir, signal);
  const { source: read } = job(shared);
  const there = await fetchSource(read, store, join(dir, 'worker'), signal);
  expect(there).toMatchObject({ kind: 'tarball', text: source.text, origin });
  expect(await readFile((there as { path: string }).path, 'utf8')).toBe('tar');
  const moved = { ...shared, origin: { ...origin, commit: '2'.repeat(40) } };
  expect(jobIdOf(job(moved), null)).not.toBe(jobIdOf(job(shared), null));
});

test.each([
  { url: 'https://h.example/r.git\nx', commit: '1'.repeat(40) },
  { url: 'https://h.example/r.git', commit: '--upload-pack=x' },
  { url: 'https://h.example/r.git', commit: '1'.repeat(40), fetch: true },
])('a job whose source comes from %j is refused', (origin) => {
  const source = { kind: 'tarball', text: 'x', file: 'x.tar', sha256: 'a'.repeat(64), origin };
  expect(() => job(source)).toThrow('The queue holds a job that cannot be read');
});
