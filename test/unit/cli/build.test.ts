import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { Dkms2binError } from '../../../src/model/errors.js';
import { ResultDocument } from '../../../src/model/result-schema.js';
import type { Engine } from '../../../src/cli/services.js';
import { cell, cli } from '../fixtures/cli-harness.js';

const FAILED = cell({
  module: 'v4l2loopback',
  version: '0.12.7',
  verdict: 'failed',
  package: null,
  reason: "dkms build failed\n/usr/src/v4l2loopback.c:12:3: error: implicit declaration of function 'x'",
  kept: 'run-7',
  fault: 'module',
});

describe('options', () => {
  test('build is the default command, and its options arrive', async () => {
    const { code, requests } = await cli([
      ...['--dkms', 'a', '--dkms', 'b', '--kernel', '6.1.0-56-amd64', '--memory', '1.5G', '--timeout', '45m'],
      ...[
        '--cpus',
        '3',
        '--arch',
        'amd64',
        '--no-verify',
        '--kernel-package',
        'x.deb',
        '--name-style',
        'dkms',
      ],
    ]);
    expect(code).toBe(0);
    expect(requests[0]).toMatchObject({
      dkms: ['a', 'b'],
      kernels: ['6.1.0-56-amd64'],
      memoryMiB: 1536,
      timeoutSeconds: 2700,
      cpus: 3,
      arch: 'x86_64',
      verify: false,
      kernelPackages: ['x.deb'],
      nameStyle: 'dkms',
      outDir: './out',
      accel: 'auto',
      cwd: '/home/user/project',
    });
    expect(requests[0]).not.toHaveProperty('mirror');
  });

  test('an option wins over the config file, the file over the default', async () => {
    const loadConfig = () =>
      Promise.resolve({
        ...{ dkms: 'c', 'out-dir': '/cfg', verify: false, accel: 'tcg' as const, memory: '2G', timeout: 90 },
        ...{ 'name-style': 'seed' as const, verbose: true, force: false },
      });
    const { requests } = await cli(['--accel', 'kvm'], { loadConfig });
    expect(requests[0]).toMatchObject({
      dkms: ['c'],
      outDir: '/cfg',
      verify: false,
      accel: 'kvm',
      image: 'auto',
      memoryMiB: 2048,
      timeoutSeconds: 90,
      nameStyle: 'release',
      force: false,
    });
  });

  test('debug symbols and the second build are off unless asked for, by option or config file', async () => {
    const off = { debugSymbols: false, checkReproducible: false };
    expect((await cli(['--dkms', 'a'])).requests[0]).toMatchObject(off);
    const on = { debugSymbols: true, checkReproducible: true };
    const typed = await cli(['--dkms', 'a', '--debug-symbols', '--check-reproducible']);
    expect(typed.requests[0]).toMatchObject(on);
    const loadConfig = () => Promise.resolve({ 'debug-symbols': true, 'check-reproducible': true });
    expect((await cli(['--dkms', 'a'], { loadConfig })).requests[0]).toMatchObject(on);
  });

  test('a checked result says so, as text and as JSON', async () => {
    const cells = [cell({ reproducible: true }), cell()];
    const { stdout } = await cli(['--dkms', 'a'], { cells });
    expect(stdout.split('\n').map((line) => line.endsWith('  reproducible'))).toEqual([true, false, false]);
    const document = ResultDocument.parse(
      JSON.parse((await cli(['--dkms', 'a', '--json'], { cells })).stdout),
    );
    expect(document.cells.map((each) => each.reproducible)).toEqual([true, undefined]);
  });

  test('signing options arrive; without a terminal nobody is asked for a passphrase', async () => {
    const contexts: object[] = [];
    const { requests } = await cli(
      [
        '--dkms',
        'a',
        '--sign-key',
        'k',
        '--sign-cert',
        'c',
        '--passphrase-file',
        'p',
        '--provenance-key',
        'q',
      ],
      {
        build: (_plan, context) => {
          contexts.push(context);
          return Promise.resolve({ run: 'r1', accelerator: 'tcg', cells: [] });
        },
      },
    );
    expect(requests[0]).toMatchObject({
      signKey: 'k',
      signCert: 'c',
      passphraseFile: 'p',
      provenanceKey: 'q',
    });
    expect(contexts[0]).not.toHaveProperty('askPassphrase');
  });

  test.each([
    [['--repo'], { keyFile: undefined }],
    [['--repo-key', 'sub/k.asc'], { keyFile: join('/home/user/project', 'sub/k.asc') }],
    [['--keep', '3'], { keep: 3 }],
  ])('%j makes the output folder a repository', async (more, expected) => {
    const published: [string, object][] = [];
    const publishRepository: Engine['publishRepository'] = (dir, options) => {
      published.push([dir, options]);
      return Promise.resolve({
        ...{ packages: [], changed: true, removed: [], kinds: ['apt' as const], signedBy: null },
        metapackages: [],
        leftOut: [{ path: 'cut.deb', reason: 'cut off' }],
      });
    };
    const { code, stderr } = await cli(['--dkms', 'a', '--out-dir', 'o', ...more], { publishRepository });
    expect(code).toBe(0);
    expect(published).toEqual([[join('/home/user/project', 'o'), expect.objectContaining(expected)]]);
    expect(stderr).toMatch(/cut\.deb: cut off/);
  });

  test('a repository that is gone is made again when all is up to date', async () => {
    const published: string[] = [];
    const publishRepository: Engine['publishRepository'] = (dir) => {
      published.push(dir);
      return Promise.resolve({
        ...{ packages: [], changed: true, removed: [], kinds: ['apt' as const], signedBy: null },
        metapackages: [],
        leftOut: [],
      });
    };
    const cells = [cell({ reason: 'up to date', phases: {} })];
    const { code } = await cli(['--dkms', 'a', '--out-dir', 'o', '--repo'], { cells, publishRepository });
    expect([code, published]).toEqual([0, [join('/home/user/project', 'o')]]);
  });

  test('nothing built, nothing published', async () => {
    const { code } = await cli(['--dkms', 'a', '--repo'], { cells: [FAILED] });
    expect(code).toBe(1);
  });

  test.each([
    [['--dksm', 'x'], /unknown option '--dksm'[^]*Did you mean --dkms/],
    [['rnus'], /"rnus" is not a command[^]*dkms2bin runs/],
    [['acpi-call-dkms'], /Modules are given with --dkms/],
    [[], /--dkms is missing/],
    [['--dkms', ''], /--dkms/],
    [['--dkms', 'a', '--memory', '3X'], /--memory: "3X" is not a size/],
    [['--dkms', 'a', '--memory', '1M'], /256M/],
    [['--dkms', 'a', '--cpus', '0'], /--cpus/],
    [['--dkms', 'a', '--timeout', '2d'], /--timeout/],
    [['--dkms', 'a', '--accel', 'constructor'], /Use one of: auto, kvm, tcg/],
    [['--dkms', 'a', '--proxy', 'proxy:3128'], /http:\/\//],
    [['--dkms', 'a', '--quiet', '--verbose'], /cannot be used with/],
    [['rm'], /missing required argument/],
    [['runs', '--bogus'], /unknown option/],
    [['--dkms', 'a\x1b[31m\x9b', '--memory', '\x1b[2J'], /--memory/],
  ])('usage error %j', async (argv, message) => {
    const { code, stdout, stderr } = await cli(argv);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^dkms2bin: /);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/\n {2}hint: /);
    expect(stderr).not.toMatch(/[\x1b\x9b]|\n {4}at /);
  });

  test('--help explains every option and the exit codes', async () => {
    const { code, stdout } = await cli(['--help']);
    expect(code).toBe(0);
    for (const word of ['--kernel-package', '--name-style', '--archive', 'doctor', '130', '(default: 2h)'])
      expect(stdout).toContain(word);
  });
});

describe('result', () => {
  test('text: paths on stdout, the rest on stderr', async () => {
    const { code, stdout, stderr } = await cli(['--dkms', 'a'], { cells: [cell(), FAILED] });
    expect(code).toBe(1);
    expect(stdout.split('\n')[0]).toBe(
      'built   acpi_call 1.2.2      6.1.0-56-amd64  /out/acpi_call_1.2.2-6.1.0-56-amd64_x86_64.deb',
    );
    expect(stderr).toContain("error: implicit declaration of function 'x'");
    expect(stderr).toContain('/out/acpi_call.log');
    expect(stderr).toContain('dkms2bin login run-7');
    expect(stderr).toContain('2 cells: 1 built, 1 failed');
  });

  test('what the compiler said is told once, in the result', async () => {
    const reason = "x.c:12:3: error: implicit declaration of function 'y'";
    const cells = [{ ...FAILED, reason }];
    const build: Engine['build'] = (_, { emit }) => {
      emit({ type: 'cell', cell: 'v4l2loopback × 6.1', verdict: 'failed', reason });
      return Promise.resolve({ run: 'r1', accelerator: 'tcg', cells });
    };
    const { stdout, stderr } = await cli(['--dkms', 'a'], { build });
    expect((stdout + stderr).split('implicit declaration')).toHaveLength(2);
    expect(stdout).toContain(reason);
    expect(stderr).toContain('/out/acpi_call.log');
    const json = await cli(['--dkms', 'a', '--json'], { build });
    expect(json.stderr).toContain(reason);
  });

  test('--json: one document on stdout and nothing else', async () => {
    const bad = { ...FAILED, reason: 'x\x1b[2Jy\u202e\x9b' };
    const { code, stdout, stderr } = await cli(['--dkms', 'a', '--json'], { cells: [cell(), bad] });
    expect(code).toBe(1);
    expect(stdout + stderr).not.toMatch(/[\x1b\u202e\x9b]/);
    const document = JSON.parse(stdout) as { cells: { reason: string }[] };
    expect(document).toMatchObject({ schemaVersion: 1, run: 'r1', accelerator: 'tcg' });
    expect(ResultDocument.parse(document)).toEqual(document);
    expect(document.cells[0]).toEqual(cell());
    expect(document.cells[1]?.reason).toBe(bad.reason);
  });

  test('--json after an error is a document too', async () => {
    const plan = (): never => {
      throw new Dkms2binError('not-found', 'No kernel 9.9', { hint: 'Try 6.1' });
    };
    const { code, stdout, stderr } = await cli(['--dkms', 'a', '--json'], { plan });
    expect(code).toBe(3);
    expect(JSON.parse(stdout)).toEqual({
      schemaVersion: 1,
      run: null,
      accelerator: null,
      cells: [],
      error: { fault: 'not-found', message: 'No kernel 9.9', hint: 'Try 6.1' },
    });
    expect(stderr).toBe('dkms2bin: No kernel 9.9\n  hint: Try 6.1\n');
  });

  test('--dry-run builds nothing', async () => {
    const build = (): never => {
      throw new Error('built');
    };
    const text = await cli(['--dkms', 'a', '--dry-run'], { build });
    expect(text.code).toBe(0);
    expect(text.stdout).toMatch(/SOURCE.*\na +6\.1\.0-56-amd64 +debian-12/);
    const json = await cli(['--dkms', 'a', '--dry-run', '--json'], { build });
    expect(JSON.parse(json.stdout)).toMatchObject({ schemaVersion: 1, plan: { cells: [{ source: 'a' }] } });
  });

  test('a bug shows no stack unless asked, and exits 70', async () => {
    const plan = (): never => {
      throw new TypeError('x is undefined');
    };
    const quiet = await cli(['--dkms', 'a'], { plan });
    expect(quiet.code).toBe(70);
    expect(quiet.stderr).toContain('This is a bug');
    expect(quiet.stderr).not.toContain('    at ');
    const trace = await cli(['--dkms', 'a'], { plan }, { env: { DKMS2BIN_TRACE: '1' } });
    expect(trace.stderr).toContain('    at ');
  });

  test('whatever fails after an interrupt, the exit code is 130', async () => {
    const controller = new AbortController();
    const plan = (): never => {
      controller.abort();
      throw new Dkms2binError('host', 'mmdebstrap exited with SIGINT');
    };
    const { code } = await cli(['--dkms', 'a'], { plan }, { signal: controller.signal });
    expect(code).toBe(130);
    const late = await cli(
      ['--dkms', 'a'],
      { cells: [cell({ verdict: 'error', fault: 'host' })] },
      { signal: AbortSignal.abort() },
    );
    expect(late.code).toBe(130);
    const done = await cli(['--dkms', 'a'], {}, { signal: AbortSignal.abort() });
    expect(done.code).toBe(0);
  });
});

describe('--debug on a terminal', () => {
  const failing = async (answer: string | null, argv: string[] = ['--debug'], tty = true) => {
    const stdin = new PassThrough();
    const logins: string[] = [];
    let offered = false;
    const result = await cli(
      ['--dkms', 'a', ...argv],
      {
        build: async (_plan, context) => {
          offered = context.onFailure !== undefined;
          if (answer === null) stdin.end();
          else stdin.write(answer);
          await context.onFailure?.({
            id: 'run-7',
            login: () => {
              logins.push('run-7');
              return Promise.resolve();
            },
          });
          return { run: 'r1', accelerator: 'tcg', cells: [FAILED] };
        },
      },
      { stdin, tty },
    );
    return { ...result, logins, offered };
  };

  test.each([
    ['\n', 1],
    ['y\n', 1],
    ['n\n', 0],
    [null, 0],
  ])('answer %j logs in %i times', async (answer, times) => {
    const { code, logins, stderr } = await failing(answer);
    expect(code).toBe(1);
    expect(stderr).toContain('Log in to the VM now? [Y/n]');
    expect(logins).toHaveLength(times);
  });

  test('not with --json, not without a terminal, not without --debug', async () => {
    expect((await failing('y\n', ['--debug', '--json'])).offered).toBe(false);
    expect((await failing('y\n', ['--debug'], false)).offered).toBe(false);
    expect((await failing('y\n', [])).offered).toBe(false);
  });
});

test('--dry-run says what a run would end with before it built anything', async () => {
  const refused = new Dkms2binError('not-found', 'There is no DKMS package nope-dkms');
  const { code, stdout, stderr } = await cli(['--dkms', 'nope-dkms', '--dry-run'], {
    checkPlan: () => Promise.reject(refused),
  });
  expect({ code, stdout }).toEqual({ code: 3, stdout: '' });
  expect(stderr).toContain('There is no DKMS package nope-dkms');
});
