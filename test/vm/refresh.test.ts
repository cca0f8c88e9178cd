import { cp, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { RefreshDocument } from '../../src/model/result-schema.js';
import { DISTRO, FIXTURES, IMAGE, kernels, ROAD, temporary, tool, type Document } from './tool.js';

let out = '';
let state = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  out = await temporary('refresh');
  state = await temporary('state');
  env = { DKMS2BIN_STATE: state };
});

afterAll(async () => {
  await rm(out, { recursive: true, force: true });
  await rm(state, { recursive: true, force: true });
});

test('a repository of an older kernel is brought to the newest one', async () => {
  const { newest, previous } = await kernels();
  const source = join(out, 'tiny');
  await cp(join(FIXTURES, 'tiny'), source, { recursive: true });
  const repository = join(out, 'repo');
  const more = ['--out-dir', repository, '--repo', '--no-verify', '--json'];
  const built = await tool(['--dkms', source, '--kernel', previous, ...ROAD, ...more], { env });
  expect(built.code, built.stderr).toBe(0);

  const dryRun = (args: string[] = []): ReturnType<typeof tool> =>
    tool(['refresh', '--dry-run', '--json', '--out-dir', repository, ...args], { env });
  const missing = async (args: string[] = []): Promise<[number | undefined, RefreshDocument]> => {
    const { code, stdout } = await dryRun(args);
    return [code, JSON.parse(stdout) as RefreshDocument];
  };
  // Where the folder lies is not recorded: the exit code and the text say so.
  expect(await missing()).toMatchObject([2, { missing: [], blocked: [{ kernel: newest, fault: 'usage' }] }]);
  const there = ['--dkms', source];
  expect(await missing(there)).toMatchObject([
    6,
    {
      missing: [{ modules: ['dk2b-tiny'], kernel: newest, distro: DISTRO, reason: 'new kernel' }],
      blocked: [],
    },
  ]);

  const refreshed = await tool(['refresh', ...there, ...IMAGE, ...more], { env });
  expect(refreshed.code, refreshed.stderr).toBe(0);
  const { cells } = JSON.parse(refreshed.stdout) as Document;
  expect(cells).toMatchObject([{ module: 'dk2b-tiny', kernel: newest, verdict: 'built' }]);
  const index = await readFile(join(repository, 'Packages'), 'utf8');
  expect(index).toContain(`Filename: ./${basename(cells[0]!.package!)}\n`);
  expect(index).toContain(`Package: dk2b-tiny-modules-${previous}\n`);
  // The metapackage leads to the kernel that was built for now; that of the first publication held it back.
  const metapackages = index.split('\n\n').filter((each) => /^Package: dk2b-tiny-modules-amd64$/m.test(each));
  expect(metapackages.map((each) => /^Depends: (\S+)/m.exec(each)?.[1])).toContain(
    `dk2b-tiny-modules-${newest}`,
  );
  expect(metapackages.map((each) => /^Depends: (\S+)/m.exec(each)?.[1])).toContain(
    `dk2b-tiny-modules-${previous}`,
  );
  expect(await missing(there)).toEqual([0, { schemaVersion: 1, missing: [], blocked: [] }]);

  // A source that broke is built once, and then only told of.
  await cp(join(FIXTURES, 'broken', 'dk2b_broken.c'), join(source, 'dk2b_tiny.c'));
  expect(await missing(there)).toMatchObject([
    6,
    { missing: [{ kernel: newest, reason: 'changed source' }] },
  ]);
  const failed = await tool(['refresh', ...there, ...IMAGE, ...more], { env });
  expect(failed.code, failed.stderr).toBe(1);
  expect(JSON.parse(failed.stdout)).toMatchObject({ cells: [{ verdict: 'failed' }] });
  const [code, { blocked }] = await missing(there);
  expect([code, blocked]).toMatchObject([1, [{ kernel: newest, fault: 'module' }]]);
  const again = await tool(['refresh', ...there, ...IMAGE, ...more], { env });
  expect(again.code).toBe(1);
  // No VM ran.
  expect(JSON.parse(again.stdout)).toMatchObject({ run: null, cells: [{ verdict: 'failed', phases: {} }] });
  expect(await readFile(join(repository, 'Packages'), 'utf8')).toBe(index);
});
