import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runBytesConfined, sandboxWorks } from '../../../src/lib/sandbox.js';

let dir = '';
beforeEach(async (context) => {
  await sandboxWorks().catch((error: Error) => context.skip(error.message));
  dir = await mkdtemp(join(tmpdir(), 'dkms2bin-readers-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

test('a program that reads an archive sees that archive, may not write it, and has neither network nor capability', async () => {
  const archive = join(dir, 'x.tar');
  await writeFile(archive, 'an archive');
  await writeFile(join(dir, 'key.pem'), 'SECRET KEY');
  const script = `cat ${archive}; echo; cat ${dir}/key.pem; echo x >${archive}; ls ${dir} "$HOME"; cat /proc/net/dev /proc/self/status; ls /proc`;
  const output = await runBytesConfined({ readable: [archive] }, ['sh', '-c', `{ ${script}; } 2>&1; true`], {
    maxBytes: 1 << 20,
  });
  const seen = output.toString();
  expect(seen).toMatch(/^an archive$/m);
  expect(seen).not.toContain('SECRET KEY');
  expect(seen).toMatch(/cannot create .*x\.tar/);
  expect(seen).toMatch(new RegExp(`^${dir}:\\nx\\.tar$`, 'm'));
  expect(seen).toMatch(/^CapEff:\s+0+$/m);
  expect(seen).toMatch(/^CapPrm:\s+0+$/m);
  expect(seen.match(/^ *\w+:(?= +\d+ +\d+ +\d+)/gm)?.map((each) => each.trim())).toEqual(['lo:']);
  expect(seen.match(/^\d+$/gm)?.length).toBeLessThan(5);
  expect(await readFile(archive, 'utf8')).toBe('an archive');
});

/** What is started without that: it reads what this host has made or what the user has in a folder. */
const OWN = [
  'cache/shared.ts tar', // packs an entry
  'cell/source.ts tar', // packs a folder
  'environment/boot.ts qemu-img', // makes a new overlay, or grows it
  'environment/delta.ts qemu-img',
  'environment/delta.ts qemu-io',
  'repo/publish-apt.ts xz', // packs an index
  'source/tree.ts tar', // packs a folder
];

test('nothing else reads disks and archives from elsewhere', async () => {
  const src = join(import.meta.dirname, '../../../src');
  const found = new Set<string>();
  for (const name of (await readdir(src, { recursive: true })).filter((each) => each.endsWith('.ts'))) {
    const text = await readFile(join(src, name), 'utf8');
    for (const [, tool] of text.matchAll(
      /\brun(?:Bytes|Chunks)?\(\s*'(tar|xz|zstd|gzip|bzip2|cpio|unzip|dpkg-deb|dpkg-source|rpm2cpio|debugfs|e2fsck|sfdisk|mcopy|qemu-img|qemu-io)'/g,
    ))
      found.add(`${name} ${tool}`);
  }
  expect([...found].sort()).toEqual(OWN);
});
