import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { oncePerFile } from '../../../src/lib/once-per-file.js';

let dir: string;
beforeEach(() => void (dir = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(dir, { recursive: true }));

test('a file is read once as long as it stays as it is, and again after a failure', async () => {
  const path = join(dir, 'a');
  writeFileSync(path, 'one');
  let reads = 0;
  const ask = oncePerFile((of) => {
    reads += 1;
    return reads === 2 ? Promise.reject(new Error('not now')) : Promise.resolve(`${reads} ${of}`);
  });
  expect(await Promise.all([ask(path), ask(path)])).toEqual([`1 ${path}`, `1 ${path}`]);
  writeFileSync(path, 'other');
  await expect(ask(path)).rejects.toThrow('not now');
  expect(await ask(path)).toBe(`3 ${path}`);
  expect(await ask(path)).toBe(`3 ${path}`);
  await expect(ask(join(dir, 'none'))).rejects.toThrow('ENOENT');
});
