import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseModuleSource } from '../../../src/engine/plan/source.js';

let cwd: string;
beforeEach(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'source-'));
});
afterEach(() => rm(cwd, { recursive: true, force: true }));

const parse = (text: string): ReturnType<typeof parseModuleSource> => parseModuleSource(text, { cwd });
const refused = (text: string, message: RegExp): Promise<void> =>
  expect(parse(text)).rejects.toMatchObject({
    fault: 'usage',
    message: expect.stringMatching(message) as string,
  });
async function source(folder: string, conf = 'PACKAGE_NAME="demo"\nPACKAGE_VERSION="1.0"\n'): Promise<void> {
  await mkdir(join(cwd, folder), { recursive: true });
  await writeFile(join(cwd, folder, 'dkms.conf'), conf);
}
test.each(['tar.gz', 'tar.xz', 'tar'])(
  'tarballs: .%s, also the layout of dkms mktarball',
  async (extension) => {
    await source('dkms_source_tree');
    await source('bad', 'PACKAGE_VERSION=1\n');
    await mkdir(join(cwd, 'empty'));
    const tar = (name: string, folder: string): Buffer =>
      execFileSync('tar', ['-caf', join(cwd, `${name}.${extension}`), '-C', cwd, folder]);
    tar('good', './dkms_source_tree');
    tar('bad', 'bad');
    tar('none', 'empty');
    expect(await parse(`good.${extension}`)).toMatchObject([
      { kind: 'tarball', path: join(cwd, `good.${extension}`) },
    ]);
    await refused(`bad.${extension}`, /dkms\.conf without PACKAGE_NAME: bad\/dkms\.conf/);
    await refused(`none.${extension}`, /holds no dkms\.conf/);
    await writeFile(join(cwd, `text.${extension}`), 'hello\n');
    await refused(`text.${extension}`, /cannot be read as a tar archive/);
  },
);
