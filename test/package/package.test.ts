import { execa } from 'execa';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FileServer, putRepo } from '../unit/fixtures/file-server.js';

// What a user gets: the packed tarball, installed in a folder with nothing of the checkout around it.
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const given = process.env.DKMS2BIN_TEST_PACKAGE;
const server = new FileServer();
let home: string;
let cache: string;

beforeAll(async () => {
  await server.open();
  putRepo(server, '/9/BaseOS/x86_64/os', [
    { name: 'kernel-core', evr: '5.14.0-427.el9' },
    { name: 'kernel-core', evr: '5.14.0-503.11.1.el9_5' },
  ]);
  cache = await mkdtemp(join(tmpdir(), 'dk2b-cache-'));
  home = given ? dirname(dirname(given)) : await mkdtemp(join(tmpdir(), 'dk2b-package-'));
  if (!given) await execa('node', [join(ROOT, 'scripts/install-package.mjs'), home]);
});
afterAll(async () => {
  server.close();
  await rm(cache, { recursive: true, force: true });
  if (!given) await rm(home, { recursive: true, force: true });
});

const run = (file: string, args: string[]) =>
  execa(file, args, {
    ...{ cwd: home, reject: false, all: true, stdin: 'ignore' },
    env: { DKMS2BIN_CACHE: cache, MIRROR: server.origin, http_proxy: '' },
  });
const tool = (name: string): string => join(ROOT, 'node_modules/.bin', name);

test('the command runs from where npm links it', async () => {
  const help = await run(join(home, 'node_modules/.bin/dkms2bin'), ['--help']);
  expect(help).toMatchObject({ exitCode: 0, stderr: '' });
  expect(help.stdout).toMatch(/^Usage: dkms2bin /);
});

test('it finds its catalogue there and plans', async () => {
  const source = join(ROOT, 'test/fixtures/tiny');
  const args = ['--dkms', source, '--distro', 'rocky-9', '--mirror', server.origin];
  const planned = await run('node_modules/.bin/dkms2bin', [...args, '--dry-run', '--json']);
  expect(planned.exitCode, planned.stderr).toBe(0);
  expect(JSON.parse(planned.stdout)).toMatchObject({
    plan: { cells: [{ kernel: '5.14.0-503.11.1.el9_5.x86_64', distro: 'rocky-9' }] },
  });
});

test('what guests, config files and readers of JSON need is in it', async () => {
  const files: string[] = [];
  for (const folder of ['cloud-init', 'images', 'schema', 'systemd']) {
    for (const each of await readdir(join(ROOT, folder), { recursive: true, withFileTypes: true }))
      if (each.isFile()) files.push(relative(ROOT, join(each.parentPath, each.name)));
  }
  expect(files).toContain('cloud-init/guest/agent.py');
  for (const file of files) {
    const installed = await readFile(join(home, 'node_modules/dkms2bin', file), 'utf8');
    expect(installed, file).toBe(await readFile(join(ROOT, file), 'utf8'));
  }
});

test('the example plans by the library, from an ordinary folder', async () => {
  await cp(join(ROOT, 'scripts/example-library.mjs'), join(home, 'example.mjs'));
  const planned = await run('node', ['example.mjs', 'acpi-call-dkms', 'latest', 'rocky-9', '--plan']);
  expect(planned).toMatchObject({
    ...{ exitCode: 0, stdout: 'acpi-call-dkms for 5.14.0-503.11.1.el9_5.x86_64 (rocky-9)' },
  });
  const unknown = await run('node', ['example.mjs', 'acpi-call-dkms', 'latest', 'no-such-distro', '--plan']);
  expect([unknown.exitCode, unknown.stderr]).toEqual([2, expect.stringContaining('Known: ')]);
});

const CONSUMER = `
import { build, buildRequest, Dkms2binError, matrix, plan, planMatrix } from 'dkms2bin';
import type { BuildPlan, CellResult, Event, MatrixCell } from 'dkms2bin';

const events: string[] = [];
function heard(event: Event): void {
  if (event.type === 'phase') events.push(event.phase);
  // @ts-expect-error only events of type output have lines
  events.push(event.line);
}
export async function run(signal: AbortSignal): Promise<CellResult[]> {
  const request = buildRequest({ dkms: ['m'], kernels: ['latest'] });
  // @ts-expect-error a request has no such field
  buildRequest({ kernel: 'latest' });
  // @ts-expect-error it can be interrupted
  await plan(request, { emit: heard });
  const cells: BuildPlan = await plan(request, { emit: heard, signal });
  // @ts-expect-error a plan is frozen
  cells.cells.push();
  return (await build(cells, { emit: heard, signal })).cells;
}
export async function broken(signal: AbortSignal): Promise<MatrixCell[]> {
  const context = { emit: heard, signal };
  const cells = await planMatrix(buildRequest({ dkms: ['m'] }), { distros: ['debian-12'] }, context);
  const { run } = await matrix(cells, { ...context, failFast: true });
  return run.cells.filter(({ outcome }) => outcome === 'failed');
}
export const fault = (error: unknown): string => (error instanceof Dkms2binError ? error.fault : '');
`;

test.each([
  ['NodeNext', 'NodeNext'],
  ['ESNext', 'bundler'],
])('its types hold under module %s, resolution %s', async (module, moduleResolution) => {
  const folder = join(home, `types-${module}`);
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'package.json'), '{"type":"module"}');
  await writeFile(join(folder, 'consumer.ts'), CONSUMER);
  const compilerOptions = {
    ...{ module, moduleResolution, target: 'ES2022', lib: ['ES2023', 'ESNext.Disposable'] },
    ...{ strict: true, noEmit: true, types: ['node'], typeRoots: [join(ROOT, 'node_modules/@types')] },
    skipLibCheck: true,
  };
  await writeFile(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['consumer.ts'] }));
  const checked = await run(tool('tsc'), ['-p', folder]);
  expect(checked.exitCode, checked.stdout).toBe(0);
});

test('publint and attw have nothing to say', async () => {
  const tarball = join(home, `dkms2bin-${await version()}.tgz`);
  const lint = await run(tool('publint'), ['run', tarball, '--strict']);
  expect(lint.exitCode, lint.all).toBe(0);
  const types = await run(tool('attw'), [tarball, '--profile', 'esm-only', '--no-emoji']);
  expect(types.exitCode, types.all).toBe(0);
});

async function version(): Promise<string> {
  return (JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string }).version;
}
