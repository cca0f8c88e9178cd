import { describe, expect, test } from 'vitest';
import { parseConfig } from '../../../src/options/config.js';
import { checkTyped, optionsOf } from '../../../src/options/merge.js';
import type { CommandName, Option } from '../../../src/options/option.js';
import { buildRequest, identityOptions } from '../../../src/options/request.js';
import { fieldOf, OPTIONS, optionRows } from '../../../src/options/table.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import { cli } from '../fixtures/cli-harness.js';

/** Values as they are typed, by the option's name. */
const SAMPLES: Readonly<Record<string, string[]>> = {
  dkms: ['a-dkms', './b'],
  kernel: ['6.1.0-56-amd64'],
  distro: ['debian-12'],
  arch: ['x86_64', 'arm64'],
  'kernel-package': ['x.deb'],
  'out-dir': ['o'],
  'name-style': ['release', 'seed', 'dkms'],
  'sign-key': ['pkcs11:object=k'],
  'sign-cert': ['c.pem'],
  'passphrase-file': ['p'],
  'provenance-key': ['k'],
  'repo-key': ['r.asc'],
  keep: ['1', '5000', '10000'],
  image: ['bootstrap'],
  'module-version': ['1.2', '0~git20260101.abcdef1'],
  'build-package': ['bc', './x.deb'],
  'kernel-repo': ['./house.sources'],
  'layer-cache': ['s3://bucket/x'],
  accel: ['kvm'],
  compile: ['guest'],
  cpus: ['1', '256'],
  memory: ['512M', '2g', '1.5GiB', '1024'],
  jobs: ['8'],
  timeout: ['90', '45m', '2H', '1.5h'],
  notify: ['https://chat.example.org/hooks/KEY'],
  mirror: ['http://mirror.example/debian'],
  archive: ['https://archive.example'],
  proxy: ['http://proxy.example:3128'],
};
const BAD: readonly [name: string, value: string][] = [
  ...[['keep', '10001'] as const, ['keep', '0'] as const, ['cpus', '300'] as const, ['cpus', 'two'] as const],
  ...[['jobs', '-1'] as const, ['memory', '100'] as const, ['memory', '3X'] as const],
  ...[['memory', '2000G'] as const, ['timeout', 'soon'] as const, ['timeout', '0'] as const],
  ...[['accel', 'xen'] as const, ['accel', 'constructor'] as const, ['arch', 'mips'] as const],
  ...[['name-style', 'rpm'] as const, ['proxy', 'proxy:3128'] as const, ['mirror', 'ftp://x/y'] as const],
  ...[
    ['out-dir', ' '] as const,
    ['dkms', ''] as const,
    ['module-version', '1 2'] as const,
    ['distro', ''] as const,
  ],
].map(([name, value]): [string, string] => [name, value]);

const inFile: Option[] = OPTIONS.filter((row: Option) => row.file === 'own');
const switches = inFile.filter(({ value }) => value === undefined);
const valued = inFile.filter(({ value }) => value !== undefined);

/** As the command line has a value, and a line of the config file that says the same. */
const typedAs = ({ repeatable }: Option, value: string): unknown => (repeatable ? [value] : value);
const yamlOf = (name: string, value: string): string => `${name}: ${JSON.stringify(value)}\n`;
const refusal = (work: () => unknown): { message: string; hint: string | undefined } => {
  try {
    work();
  } catch (error) {
    const { message, hint, fault } = error as Dkms2binError;
    expect(fault).toBe('usage');
    return { message, hint };
  }
  throw new Error('not refused');
};

describe('command line and config file', () => {
  test.each(valued.map((row) => [row.name, row] as const))('--%s means the same in both', (name, row) => {
    const samples = SAMPLES[name] ?? [];
    expect(samples, 'a sample for it').not.toEqual([]);
    for (const command of row.commands)
      for (const sample of samples) {
        const rest = requiredOf(command);
        const typed = optionsOf(command, { ...rest, [name]: typedAs(row, sample) }, {});
        const filed = optionsOf(command, rest, parseConfig(yamlOf(name, sample)));
        expect(filed).toEqual(typed);
        expect((typed as Record<string, unknown>)[fieldOf(row)]).toBeDefined();
      }
  });

  test.each(switches.map((row) => [row.name, row] as const))('%s means the same in both', (name, row) => {
    const on = row.fallback !== true;
    for (const command of row.commands) {
      const rest = requiredOf(command);
      const typed = optionsOf(command, { ...rest, [name]: on }, {});
      expect(optionsOf(command, rest, parseConfig(`${name}: ${on}\n`))).toEqual(typed);
      expect(typed).not.toEqual(optionsOf(command, rest, {}));
    }
  });

  test.each(BAD)('%s %j is refused by both, in the same words', (name, value) => {
    const row = valued.find((each) => each.name === name) as Option;
    const typed = refusal(() => checkTyped('build', { [name]: typedAs(row, value) }));
    const filed = refusal(() => parseConfig(`# a comment\n${yamlOf(name, value)}`));
    expect(typed.message).toMatch(new RegExp(`^--${name}: `));
    expect(filed.message).toBe(typed.message.replace(`--${name}`, `dkms2bin.yaml:2: ${name}`));
    expect(filed.hint).toBe(typed.hint);
    expect(filed.hint).toBeDefined();
  });

  test('numbers of YAML are what the same text is', () => {
    const read = (yaml: string): unknown => optionsOf('build', {}, parseConfig(yaml));
    expect(read('keep: 5\nmemory: 2048\ntimeout: 90\n')).toEqual(
      read('keep: "5"\nmemory: 2048M\ntimeout: 90s\n'),
    );
    expect(() => parseConfig('kernel: 6.10\n')).toThrow(/:1: kernel: 6\.1 is not a text/);
    expect(() => parseConfig('dkms: [a, ""]\n')).toThrow(/:1: dkms: "" is not a text/);
  });

  test('a value of the file that is wrong is an error, whatever is typed', () => {
    expect(() => parseConfig('dkms: a\nmemory: 100\n')).toThrow(
      /^dkms2bin\.yaml:2: memory: 100 is not between/,
    );
  });
});

test('what is typed wins, of two that exclude each other too', () => {
  const file = { memory: '4G', quiet: true, 'dry-run': true };
  expect(optionsOf('build', { memory: '1G', verbose: true }, file)).toMatchObject({
    ...{ memoryMiB: 1024, verbose: true, quiet: false, dryRun: true },
  });
});

test('a request has what asks something of the engine, and nothing else', () => {
  const request = buildRequest({ ...optionsOf('build', {}, { json: true, keep: 3 }), cwd: '/' });
  expect(request).toEqual({
    ...{
      dkms: [],
      kernels: [],
      kernelPackages: [],
      kernelRepos: [],
      buildPackages: [],
      outDir: './out',
      nameStyle: 'release',
      image: 'auto',
    },
    ...{
      accel: 'auto',
      compile: 'auto',
      timeoutSeconds: 7200,
      verify: true,
      force: false,
      debug: false,
      keepFailed: false,
    },
    ...{ offline: false, strict: false, debugSymbols: false, checkReproducible: false, cwd: '/' },
  });
});

test('the identity has what decides what comes out, by name and in order', () => {
  const request = buildRequest({ nameStyle: 'dkms', debugSymbols: true, jobs: 3, debug: true, cwd: '/' });
  expect(Object.entries(identityOptions(request))).toEqual([
    ['debug-symbols', true],
    ['name-style', 'dkms'],
    ['strict', false],
    ['verify', true],
  ]);
});

test('the table is whole: one row a command and name, and a row for each key of the file', () => {
  for (const command of new Set(OPTIONS.flatMap((row: Option) => row.commands))) {
    const names = optionRows(command).map(({ name }) => name);
    expect(names, command).toEqual([...new Set(names)]);
  }
  const own = inFile.map(({ name }) => name);
  expect(own).toEqual([...new Set(own)]);
  const borrowed: Option[] = OPTIONS.filter((row: Option) => row.file === 'borrowed');
  for (const { name } of borrowed) expect(own).toContain(name);
});

describe('every command', () => {
  const kernels = [{ release: '6.1.0-56-amd64', distro: 'd', packageVersion: '1', suite: 's' }];

  test('takes what it knows of the config file, and --config', async () => {
    const asked: unknown[] = [];
    const { code } = await cli(['kernels', '--config', 'other.yaml', '--arch', 'arm64'], {
      loadConfig: (path) => {
        asked.push(path);
        return Promise.resolve({ distro: 'debian-12', mirror: 'http://m.example', arch: 'x86_64', keep: 3 });
      },
      listKernels: (distro, { mirror, arch }) => {
        asked.push([distro, mirror, arch]);
        return Promise.resolve(kernels);
      },
    });
    expect([code, asked]).toEqual([0, ['other.yaml', ['debian-12', 'http://m.example', 'aarch64']]]);
  });

  test('with --json tells in a document what was wrong with the config file', async () => {
    const loadConfig = () => Promise.reject(new Dkms2binError('usage', 'dkms2bin.yaml:1: no'));
    const { code, stdout } = await cli(['runs', '--json'], { loadConfig });
    expect([code, JSON.parse(stdout)]).toMatchObject([2, { error: { message: 'dkms2bin.yaml:1: no' } }]);
  });
});

function requiredOf(command: CommandName): Record<string, string> {
  const required = optionRows(command).filter((row) => row.required?.includes(command));
  return Object.fromEntries(required.map(({ name }) => [name, 'x']));
}
