import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { listRunDirs } from '../../../src/cell/run-dir.js';
import { socketFolder } from '../../../src/lib/scratch.js';

let parent = '';
beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'scratch-'));
  vi.stubEnv('XDG_RUNTIME_DIR', parent);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(parent, { recursive: true, force: true });
});

test('what a dead process left goes; what only looks like it stays', async () => {
  const folder = async (name: string, lock: boolean): Promise<string> => {
    const dir = join(parent, name);
    await mkdir(dir, { mode: 0o700 });
    await chmod(dir, 0o700);
    await writeFile(join(dir, lock ? 'lock' : 'data'), '');
    return dir;
  };
  const left = [
    await folder('dk2b-abcdef', true),
    await folder('dk2b-999999999-abcdef', true),
    await folder('.dk2b-999999999-abcdef', false),
  ];
  const others = [
    // Of a test, or of a person.
    await folder('dk2b-hostile-abcdef', false),
    await folder('dk2b-results', true),
    await folder('dk2b-ghijkl', false),
    // Its maker lives and may be about to lock it.
    await folder(`.dk2b-${process.pid}-abcdef`, false),
    await folder('.dk2b-abcdef', false),
  ];
  {
    await using own = await socketFolder();
    expect(own.dir.startsWith(join(parent, 'dk2b-'))).toBe(true);
    expect(left.filter(existsSync)).toEqual([]);
    expect(others.filter((dir) => !existsSync(dir))).toEqual([]);
  }
  expect(await readdir(parent)).toHaveLength(others.length);
});

test('who looks for runs removes what dead processes left, before anything needs a folder', async () => {
  vi.stubEnv('DKMS2BIN_STATE', join(parent, 'state'));
  const left = [
    join(parent, 'dk2b-999999999-abcdef'),
    join(parent, 'state', 'scratch', 'd-999999999-abcdef'),
  ];
  for (const dir of left) {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await writeFile(join(dir, 'lock'), '');
  }
  expect(await listRunDirs()).toEqual([]);
  expect(left.filter(existsSync)).toEqual([]);
});
