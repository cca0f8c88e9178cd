import { createHash } from 'node:crypto';
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { writeAtomic } from '../../../src/lib/atomic-write.js';

let tmp: string;
let out: string;
beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  out = join(tmp, 'out');
  mkdirSync(out);
});
afterEach(() => rmSync(tmp, { recursive: true }));

it('leaves nothing of a file that has changed since its digest was taken', async () => {
  const file = join(tmp, 'from');
  const first = Buffer.alloc(300_000, 'a');
  writeFileSync(file, first);
  const known = { sha256: createHash('sha256').update(first).digest('hex'), size: first.length };
  for (const now of ['', 'b', 'a'.repeat(299_999) + 'b', 'a'.repeat(300_001)]) {
    writeFileSync(file, now);
    await expect(writeAtomic({ file }, join(out, 'x'), known)).rejects.toMatchObject({
      fault: 'usage',
      message: `${file} changed while it was read`,
    });
    expect(readdirSync(out)).toEqual([]);
  }
  writeFileSync(file, first);
  expect(await writeAtomic({ file }, join(out, 'x'), known)).toEqual({ status: 'written', ...known });
  expect(readFileSync(join(out, 'x')).equals(first)).toBe(true);
});

it('writes bytes and copies files, and leaves an identical file alone', async () => {
  const bytes = Buffer.from('one');
  const file = join(tmp, 'from');
  writeFileSync(file, bytes);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const to = join(out, 'a');
  expect(await writeAtomic({ file }, to)).toEqual({ status: 'written', sha256, size: 3 });
  const { ino } = statSync(to);
  expect(ino).not.toBe(statSync(file).ino);
  expect(await writeAtomic({ file }, to)).toEqual({ status: 'up to date', sha256, size: 3 });
  expect(await writeAtomic(bytes, to)).toEqual({ status: 'up to date', sha256, size: 3 });
  expect(statSync(to).ino).toBe(ino);

  // Of the same size, so that only the content tells.
  expect((await writeAtomic(Buffer.from('two'), to)).status).toBe('written');
  expect(readFileSync(to, 'utf8')).toBe('two');
  const big = Buffer.alloc(300_000, 'x');
  writeFileSync(file, big);
  expect((await writeAtomic({ file }, to)).size).toBe(big.length);
  expect(readFileSync(to).equals(big)).toBe(true);
  expect(readdirSync(out)).toEqual(['a']);
});

it('replaces a symlink, never what it points at', async () => {
  writeFileSync(join(tmp, 'victim'), 'v');
  symlinkSync('../victim', join(out, 'a'));
  await writeAtomic(Buffer.from('v'), join(out, 'a'));
  expect(lstatSync(join(out, 'a')).isFile()).toBe(true);
  await writeAtomic(Buffer.from('w'), join(out, 'a'));
  expect(readFileSync(join(tmp, 'victim'), 'utf8')).toBe('v');
});

it('says what is wrong with the place', async () => {
  await expect(writeAtomic(Buffer.from(''), join(tmp, 'none', 'a'))).rejects.toMatchObject({
    fault: 'usage',
    message: `Cannot write a to ${join(tmp, 'none')}: no such folder`,
  });
  mkdirSync(join(out, 'a'));
  await expect(writeAtomic(Buffer.from(''), join(out, 'a'))).rejects.toThrow('a folder of that name exists');
  expect(readdirSync(out)).toEqual(['a']);
});

it('sweeps by age what another host left, and nothing foreign', async () => {
  // Linux gives none so high.
  const dead = 2 ** 22 + 1;
  const old = `.dkms2bin-00000000-${dead}-0123456789ab.part`;
  const young = `.dkms2bin-00000000-${dead}-ba9876543210.part`;
  const foreign = ['.a.deb.0123456789ab.part', '.dkms2bin-x.part', 'a.part', `${old}.txt`];
  for (const name of [old, young, ...foreign]) writeFileSync(join(out, name), '');
  const folder = `.dkms2bin-00000000-${dead}-abcdefabcdef.part`;
  mkdirSync(join(out, folder));
  const past = new Date(Date.now() - 61 * 60_000);
  for (const name of [old, folder, ...foreign]) utimesSync(join(out, name), past, past);
  await writeAtomic(Buffer.from('1'), join(out, 'a'));
  expect(readdirSync(out).sort()).toEqual([young, folder, 'a', ...foreign].sort());
});
