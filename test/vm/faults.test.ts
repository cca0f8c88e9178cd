import { execa } from 'execa';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { cacheDir } from '../../src/lib/paths.js';
import { cacheWithoutLayers, FIXTURES, kernels, MAIN, ROAD, temporary } from './tool.js';

let kernel = '';
let out = '';
let state = '';
let bare = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  ({ newest: kernel } = await kernels());
  state = await temporary('state');
  bare = await cacheWithoutLayers();
  env = { DKMS2BIN_STATE: state };
});

beforeEach(async () => {
  out = await temporary('out');
});

afterEach(() => rm(out, { recursive: true, force: true }));

afterAll(async () => {
  await rm(state, { recursive: true, force: true });
  await rm(bare, { recursive: true, force: true });
});

/** Processes that work in one of the folders. */
async function working(...folders: string[]): Promise<string[]> {
  const { stdout } = await execa('ps', ['-eo', 'pid,args']);
  return stdout.split('\n').filter((line) => folders.some((folder) => line.includes(folder)));
}

async function halfMade(cache: string): Promise<string[]> {
  const names = await readdir(cache, { recursive: true }).catch(() => []);
  return names.filter((name) => /\.part(\/|-|$)/.test(name));
}

const args = (road: string[]): string[] => [
  ...['--dkms', join(FIXTURES, 'tiny'), '--kernel', kernel, '--out-dir', out],
  ...['--force', '--verbose', ...road],
];

/** Runs until a line of the output shows that a step began, waits `afterMs` and sends Ctrl-C's signal. */
async function interruptAt(step: RegExp, environment: Record<string, string>, afterMs: number, road = ROAD) {
  const run = execa('node', [MAIN, ...args(road)], { env: environment, reject: false, stdin: 'ignore' });
  let said = '';
  let reached = (): void => undefined;
  const begun = new Promise<void>((resolve) => (reached = resolve));
  run.stderr.on('data', (data) => {
    said += String(data);
    if (step.test(said)) reached();
  });
  await Promise.race([begun, run]);
  expect(said).toMatch(step);
  await sleep(afterMs);
  run.kill('SIGINT');
  return { ended: await run, said };
}

/** Of the common cache, which runs of other tests use meanwhile, only what a run itself holds is looked at. */
async function leavesNothing(cache: string): Promise<void> {
  const own = cache === cacheDir() ? [state] : [state, cache];
  for (let i = 0; i < 40 && (await working(...own)).length > 0; i++) await sleep(250);
  expect(await working(...own)).toEqual([]);
  if (cache !== cacheDir()) expect(await halfMade(cache)).toEqual([]);
  expect(await readdir(join(state, 'runs')).catch(() => [])).toEqual([]);
  expect(await readdir(out)).toEqual([]);
}

test('Ctrl-C while an image is bootstrapped', async () => {
  const cache = await temporary('cache');
  try {
    const { ended, said } = await interruptAt(
      /bootstrap packages …/,
      { ...env, DKMS2BIN_CACHE: cache },
      8000,
      ['--distro', 'debian-12', '--image', 'bootstrap'],
    );
    expect(ended.exitCode, said).toBe(130);
    await leavesNothing(cache);
  } finally {
    await rm(cache, { recursive: true, force: true });
  }
});

test.each([
  ['a kernel layer is made', /kernel layer \S+ …/, 6000],
  ['a memory snapshot is made', /memory snapshot \S+ …/, 5000],
  ['the build VM starts', /: boot …/, 50],
  ['the module is built', /: dkms …/, 3000],
  ['the package is proved', /: verify …/, 500],
])('Ctrl-C while %s', async (_, step, afterMs) => {
  const cache = /layer|snapshot/.test(String(step)) ? bare : cacheDir();
  const { ended, said } = await interruptAt(step, { ...env, DKMS2BIN_CACHE: cache }, afterMs);
  expect(ended.exitCode, said).toBe(130);
  await leavesNothing(cache);
});

/** Runs the tool with a small file system mounted over a folder: user namespaces let an ordinary user do that. */
async function withSmall(folder: string, size: string) {
  const script = `mount -t tmpfs -o size=${size},mode=700 tmpfs "$1" && shift && node "$@"; code=$?; ls -A "${folder}" >&2; exit $code`;
  return execa(
    'unshare',
    [
      '--user',
      '--map-root-user',
      '--mount',
      'sh',
      '-c',
      script,
      'sh',
      folder,
      MAIN,
      ...args(ROAD),
      '--no-verify',
    ],
    { env, reject: false, stdin: 'ignore' },
  );
}

test('no room for the run: told before a VM starts', async () => {
  const ended = await withSmall(state, '64m');
  expect(ended.exitCode, ended.stderr).toBe(4);
  expect(ended.stderr).toMatch(/Less than 4 GiB is free/);
});

test('no room in the out-dir: the package is not there at all', async () => {
  const ended = await withSmall(out, '4k');
  expect(ended.exitCode, ended.stderr).toBe(4);
  // The result line tells why; on a terminal both streams are one.
  expect(`${ended.stdout}\n${ended.stderr}`).toMatch(/no space|full/i);
  // `ls` at the end names what is there.
  expect(ended.stderr).not.toMatch(/^[^ /]+\.deb$/m);
  expect(ended.stderr).not.toMatch(/\n\s+at /);
});
