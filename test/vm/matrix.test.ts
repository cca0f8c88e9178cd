import { execa } from 'execa';
import { existsSync } from 'node:fs';
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { MatrixDocument } from '../../src/model/result-schema.js';
import type { MatrixRun } from '../../src/model/matrix.js';
import { FIXTURES, kernels, MAIN, ROAD, temporary, tool, type Ended } from './tool.js';

let folder = '';
let state = '';

beforeAll(async () => {
  folder = await temporary('matrix');
  state = await temporary('state');
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await rm(state, { recursive: true, force: true });
});

const said = ({ stdout, stderr }: Ended): MatrixRun => {
  const document = MatrixDocument.parse(JSON.parse(stdout));
  if ('error' in document) throw new Error(stderr);
  return document;
};

test('three modules on two kernels, interrupted and resumed', async () => {
  const { newest, previous } = await kernels();
  for (const name of ['tiny', 'broken', 'exclusive'])
    await cp(join(FIXTURES, name), join(folder, name), { recursive: true });
  // Of the older kernel one cell is enough: its layer and snapshot are what is to be made once.
  await writeFile(
    join(folder, 'dkms2bin.yaml'),
    `matrix:
  modules: [./tiny, ./broken, ./exclusive]
  kernels: [${newest}, ${previous}]
  exclude:
    - { module: tiny, kernel: ${newest} }
  expect-failure:
    - { module: dk2b-broken, kernel: ${newest}, reason: it is made to fail }
out-dir: ./out
verify: false
`,
  );
  const env = { DKMS2BIN_STATE: state };
  const argv = ['matrix', ...ROAD, '--json', '--resume', '--events', 'events', '--jobs', '1'];

  // Ctrl-C once the first cell is done and the next one is at work.
  const first = execa('node', [MAIN, ...argv], { env, cwd: folder, reject: false, stdin: 'ignore' });
  const events = async (): Promise<string> =>
    existsSync(join(folder, 'events')) ? readFile(join(folder, 'events'), 'utf8') : '';
  let ended = false;
  void first.then(() => (ended = true));
  while (!ended && !/"type":"cell"[^]*"phase":"dkms"/.test(await events()))
    await new Promise((resolve) => setTimeout(resolve, 100));
  first.kill('SIGINT');
  const { exitCode, stdout, stderr } = await first;
  expect(exitCode, String(stderr)).toBe(130);
  const before = said({ code: exitCode, stdout: String(stdout), stderr: String(stderr) });
  expect(before.complete).toBe(false);
  const done = before.cells.filter(({ verdict }) => verdict !== null);
  expect(done.length).toBeGreaterThan(0);
  expect(await readdir(join(state, 'runs'))).toEqual([]);

  const resumed = await tool(argv, { env, cwd: folder });
  // The broken one fails on the kernel that nobody expected it on.
  expect(resumed.code, resumed.stderr).toBe(1);
  const after = said(resumed);
  expect(after).toMatchObject({ run: before.run, startedAt: before.startedAt, complete: true });
  expect(after.cells).toEqual(expect.arrayContaining(done));
  const outcomes = after.cells.map(({ module, kernel, outcome }) => [module, kernel, outcome].join(' '));
  expect(outcomes.sort()).toEqual(
    [
      `dk2b-broken ${newest} expected-failure`,
      `dk2b-exclusive ${newest} skipped`,
      `dk2b-tiny ${previous} built`,
      `dk2b-broken ${previous} failed`,
      `dk2b-exclusive ${previous} skipped`,
    ].sort(),
  );
  const built = after.cells.find(({ outcome }) => outcome === 'built')!;
  expect(existsSync(built.package!)).toBe(true);
  expect(built.phases.build).toBeGreaterThan(0);
  const broken = after.cells.find(({ outcome }) => outcome === 'failed')!;
  expect(broken.logTail).toContain('there_is_no_such_symbol');
  // What was finished before the interrupt had no second turn.
  const turns = (await events()).split('\n').filter((line) => line.includes('"type":"turn"'));
  expect(turns).toHaveLength(after.cells.length - done.length);
});
