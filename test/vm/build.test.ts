import { execa } from 'execa';
import { existsSync } from 'node:fs';
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DISTRO, FIXTURES, kernels, MAIN, ROAD, temporary, tool, type Document } from './tool.js';

let kernel = '';
let out = '';
let state = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  kernel = (await kernels()).newest;
  out = await temporary('out');
  state = await temporary('state');
  env = { DKMS2BIN_STATE: state };
});

afterAll(async () => {
  await rm(out, { recursive: true, force: true });
  await rm(state, { recursive: true, force: true });
});

/** Our QEMU processes: those that name this test's folder. */
async function qemus(): Promise<string[]> {
  const { stdout } = await execa('ps', ['-eo', 'pid,args']);
  return stdout.split('\n').filter((line) => line.includes('qemu-system-x86_64') && line.includes(state));
}

async function runsLeft(): Promise<string[]> {
  return readdir(join(state, 'runs')).catch(() => []);
}

async function gone(what: () => Promise<string[]>): Promise<string[]> {
  for (let i = 0; i < 40 && (await what()).length > 0; i++) await sleep(250);
  return what();
}

test('runs as an ordinary user', () => {
  expect(process.getuid?.()).not.toBe(0);
});

test('built, failed and skipped cells of one run, with a real package from the distro', async () => {
  const ended = await tool(
    [
      ...[
        '--dkms',
        'acpi-call-dkms',
        '--dkms',
        join(FIXTURES, 'broken'),
        '--dkms',
        join(FIXTURES, 'exclusive'),
      ],
      ...[...ROAD, '--kernel', kernel, '--out-dir', out, '--json'],
    ],
    { env },
  );
  const document = JSON.parse(ended.stdout) as Document;
  const by = new Map(document.cells.map((cell) => [cell.module, cell]));

  const built = by.get('acpi-call')!;
  expect(built, ended.stderr).toMatchObject({
    verdict: 'built',
    kernel,
    distro: DISTRO,
    arch: 'x86_64',
  });
  expect(built.phases.build).toBeGreaterThan(0);
  expect(built.phases.verify).toBeGreaterThan(0);
  expect(built.package).toBe(join(out, `acpi-call_${built.version}-${kernel}_x86_64.deb`));
  const control = (await execa('dpkg-deb', ['-f', built.package!])).stdout;
  expect(control).toContain(`Package: acpi-call-modules-${kernel}`);
  expect(control).toContain(`Depends: linux-image-${kernel} | linux-image-${kernel}-unsigned`);
  expect(control).toContain('Provides: acpi-call-modules');
  const contents = (await execa('dpkg-deb', ['-c', built.package!])).stdout;
  expect(contents).toContain(`./lib/modules/${kernel}/updates/dkms/acpi_call.ko`);

  const failed = by.get('dk2b-broken')!;
  expect(failed.verdict).toBe('failed');
  expect(failed.reason).toMatch(/there_is_no_such_symbol.*undeclared/);
  expect(failed.package).toBeNull();
  expect(await readFile(failed.log!, 'utf8')).toContain('there_is_no_such_symbol');
  expect(failed.log!.startsWith(out)).toBe(true);

  const skipped = by.get('dk2b-exclusive')!;
  expect(skipped.verdict).toBe('skipped');
  expect(skipped.reason).toMatch(/BUILD_EXCLUSIVE_KERNEL|4\\?\.4/);

  expect(ended.code).toBe(1);
  expect(await gone(qemus)).toEqual([]);
  expect(await runsLeft()).toEqual([]);
});

test('BUILD_DEPENDS from another source of the request: both are built, and load together', async () => {
  const fixtures = ['--dkms', join(FIXTURES, 'needs-lib'), '--dkms', join(FIXTURES, 'lib')];
  const ended = await tool([...fixtures, ...ROAD, '--kernel', kernel, '--out-dir', out, '--json'], { env });
  const { cells } = JSON.parse(ended.stdout) as Document;
  // One row each: what a cell builds only for another is that other cell's to report.
  expect(cells.map((cell) => cell.module).sort(), ended.stderr).toEqual(['dk2b-lib', 'dk2b-needs-lib']);
  for (const cell of cells) {
    expect(cell).toMatchObject({ verdict: 'built', reason: null, kernel });
    expect(cell.phases.verify).toBeGreaterThan(0);
  }
  const file = cells.find((cell) => cell.module === 'dk2b-needs-lib')!.package!;
  const depends = (await execa('dpkg-deb', ['-f', file, 'Depends'])).stdout;
  expect(depends.split(', ')).toContain(`dk2b-lib-modules-${kernel}`);
  expect(ended.code).toBe(0);
});

test('an interrupted and a killed run leave no process, and the next run no folder', async () => {
  const tiny = ['--dkms', join(FIXTURES, 'tiny'), ...ROAD];
  const args = [...tiny, '--kernel', kernel, '--out-dir', out, '--no-verify'];
  const start = () => execa('node', [MAIN, ...args], { env, reject: false, stdin: 'ignore', cleanup: false });

  const interrupted = start();
  for (let i = 0; i < 400 && (await qemus()).length === 0; i++) await sleep(100);
  expect(await qemus()).not.toEqual([]);
  interrupted.kill('SIGINT');
  expect((await interrupted).exitCode).toBe(130);
  expect(await qemus()).toEqual([]);
  expect(await runsLeft()).toEqual([]);

  const killed = start();
  for (let i = 0; i < 400 && (await qemus()).length === 0; i++) await sleep(100);
  killed.kill('SIGKILL');
  await killed;
  expect(await gone(qemus)).toEqual([]);
  await tool(['runs'], { env });
  expect(await runsLeft()).toEqual([]);

  expect((await readdir(out)).filter((name) => name.endsWith('.part'))).toEqual([]);
});

test('an unchanged source is up to date, and its package untouched', async () => {
  const args = [
    '--dkms',
    join(FIXTURES, 'tiny'),
    ...ROAD,
    '--kernel',
    kernel,
    '--out-dir',
    out,
    '--json',
    '--no-verify',
  ];
  const first = JSON.parse((await tool(args, { env })).stdout) as Document;
  expect(first.cells[0]).toMatchObject({ verdict: 'built', module: 'dk2b-tiny' });
  const file = first.cells[0]!.package!;
  const before = await stat(file);
  const second = JSON.parse((await tool(args, { env })).stdout) as Document;
  expect(second.cells[0]).toMatchObject({ verdict: 'built', reason: 'up to date', package: file });
  const after = await stat(file);
  expect([after.ino, after.mtimeMs]).toEqual([before.ino, before.mtimeMs]);
});

test('a package that the distro does not have is an error with exit code 3', async () => {
  const ended = await tool(
    ['--dkms', 'no-such-thing-dkms', ...ROAD, '--kernel', kernel, '--out-dir', out, '--json'],
    {
      env,
    },
  );
  expect(ended.code).toBe(3);
  expect((JSON.parse(ended.stdout) as Document).cells[0]).toMatchObject({
    verdict: 'error',
    fault: 'not-found',
  });
});

test('bad input is refused before any VM starts', async () => {
  const dir = await temporary('bad');
  try {
    await writeFile(join(dir, 'text.deb'), 'not a package\n');
    await writeFile(join(dir, 'file'), '');
    const cases: [string[], number, RegExp][] = [
      [
        ['--dkms', join(dir, 'text.deb'), ...ROAD, '--kernel', kernel, '--out-dir', out],
        2,
        /not a Debian package/,
      ],
      [
        ['--dkms', join(FIXTURES, 'tiny'), ...ROAD, '--kernel', '6.1.0-9999-amd64', '--out-dir', out],
        3,
        /6\.1\.0-9999-amd64/,
      ],
      [
        ['--dkms', join(FIXTURES, 'tiny'), '--kernel', kernel, '--distro', 'plan9', '--out-dir', out],
        2,
        /plan9/,
      ],
      [
        ['--dkms', join(FIXTURES, 'tiny'), ...ROAD, '--kernel', kernel, '--out-dir', join(dir, 'file', 'x')],
        2,
        /out-dir/,
      ],
      [['--dkms', dir, ...ROAD, '--kernel', kernel, '--out-dir', out], 2, /dkms\.conf/],
    ];
    for (const [args, code, message] of cases) {
      const ended = await tool(args, { env });
      expect(ended.stderr).toMatch(message);
      expect(ended.code, ended.stderr).toBe(code);
      expect(ended.stderr).not.toMatch(/\n\s+at /);
    }
    expect(existsSync(join(state, 'runs')) ? await runsLeft() : []).toEqual([]);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
