import { expect, test } from 'vitest';
import type { CacheRow as ImageInfo, PruneOptions, VerifiedRow } from '../../../src/cache/upkeep.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import type { BuildRequest } from '../../../src/options/request.js';
import { cli } from '../fixtures/cli-harness.js';

const IMAGE: ImageInfo = {
  name: 'kernel 6.1.0-56-amd64 0123',
  kind: 'layer',
  on: 'debian-12 official 4567',
  bytes: 3 * 1024 ** 3,
  created: '2020-01-01T00:00:00Z',
  lastUsed: '2020-01-01T00:00:00Z',
  inUse: true,
  damaged: false,
};

test('images lists with and without the word list, as a table or JSON', async () => {
  const listImages = (): Promise<ImageInfo[]> =>
    Promise.resolve([IMAGE, { ...IMAGE, inUse: false }, { ...IMAGE, damaged: true }]);
  const { stdout } = await cli(['images'], { listImages });
  const [head, ...rows] = stdout.trimEnd().split('\n');
  expect(head).toMatch(/^NAME +KIND +ON +SIZE +AGE +LAST USED +STATE$/);
  expect(rows[0]).toMatch(
    /^kernel 6.1.0-56-amd64 0123 +layer +debian-12 official 4567 +3\.0 GiB +\d+ days +\d+ days +in use$/,
  );
  expect(rows.map((row) => /(\S+)$/.exec(row)?.[1])).toEqual(['use', '-', 'damaged']);
  const json = await cli(['images', '--json'], { listImages });
  expect(JSON.parse(json.stdout)).toMatchObject({ schemaVersion: 1, images: [IMAGE, {}, {}] });
  expect((await cli(['images', 'list', '--json'], { listImages })).stdout).toBe(json.stdout);
  const none = await cli(['images'], { listImages: () => Promise.resolve([]) });
  expect([none.stdout, none.stderr]).toEqual(['', expect.stringContaining('empty')]);
});

test('prune turns sizes and ages into limits and says what it did', async () => {
  const asked: PruneOptions[] = [];
  const pruneImages = (options: PruneOptions) => {
    asked.push(options);
    return Promise.resolve({
      removed: [{ name: 'kernel a', kind: 'layer' as const, bytes: 2 ** 30 }],
      freed: 2 ** 30,
      left: 12 * 2 ** 30,
    });
  };
  const one = await cli(['images', 'prune', '--max-size', '10G', '--max-age', '2w'], { pruneImages });
  expect(one).toMatchObject({ code: 0, stdout: 'removed  kernel a  layer  1.0 GiB\n' });
  expect(one.stderr).toContain('freed 1.0 GiB; 12.0 GiB stay');
  expect(one.stderr).toContain('the rest is in use');
  const two = await cli(['images', 'prune', '--dry-run', '--max-size', '0'], { pruneImages });
  expect(two.stdout).toMatch(/^would remove/);
  await cli(['images', 'prune'], { pruneImages });
  expect(asked).toMatchObject([
    { dryRun: false, maxBytes: 10 * 2 ** 30, maxAgeSeconds: 14 * 86400 },
    { dryRun: true, maxBytes: 0 },
    { dryRun: false },
  ]);
  expect(Object.keys(asked[2]!).sort()).toEqual(['dryRun', 'signal']);
});

test.each([
  ['--max-size', '10'],
  ['--max-size', '10X'],
  ['--max-size', '-1G'],
  ['--max-age', '30'],
  ['--max-age', 'soon'],
])('prune %s %s is refused', async (option, value) => {
  const { code, stderr } = await cli(['images', 'prune', `${option}=${value}`]);
  expect(code).toBe(2);
  expect(stderr).toContain(`${option}: "${value}" is not`);
});

test('verify names what is damaged and exits with 4, unless it is removed', async () => {
  const row: VerifiedRow = {
    name: 'base',
    kind: 'image',
    bytes: 1,
    state: 'good',
    problem: null,
    removed: false,
  };
  const bad: VerifiedRow = {
    ...row,
    name: 'snap',
    state: 'damaged',
    problem: 'ram has changed since it was made',
  };
  const with_ = (...rows: VerifiedRow[]) => ({ verifyImages: () => Promise.resolve(rows) });
  expect((await cli(['images', 'verify'], with_(row))).code).toBe(0);
  const found = await cli(['images', 'verify'], with_(row, bad));
  expect(found.code).toBe(4);
  expect(found.stdout).toMatch(/^base +image +1 B +good$/m);
  expect(found.stdout).toMatch(/^snap .* damaged +ram has changed since it was made$/m);
  expect(found.stderr).toContain('Damaged in the cache: snap');
  expect(found.stderr).toContain('images verify --remove');
  const gone = await cli(['images', 'verify', '--remove'], with_(row, { ...bad, removed: true }));
  expect(gone.code).toBe(0);
  expect(gone.stdout).toContain('damaged, removed');
  const held = await cli(['images', 'verify', '--remove'], with_(bad));
  expect([held.code, held.stderr]).toEqual([4, expect.stringContaining('in use')]);
});

test('warm takes the options of a build, the config file too, and prints what is ready', async () => {
  const asked: BuildRequest[] = [];
  const argv = 'images warm --kernel 6.1.0-56-amd64 --kernel latest --image bootstrap --memory 1G --cpus 2';
  const { code, stdout } = await cli([...argv.split(' '), '--accel', 'tcg'], {
    loadConfig: () => Promise.resolve({ proxy: 'http://proxy.example:3128', memory: '4G', kernel: 'x' }),
    warmImages: (request, { report }) => {
      asked.push(request);
      report({ kernel: '6.1.0-56-amd64', distro: 'debian-12', snapshot: true });
      return Promise.resolve();
    },
  });
  expect(code).toBe(0);
  expect(stdout).toBe('ready  6.1.0-56-amd64  debian-12  with snapshot\n');
  expect(asked).toMatchObject([
    {
      kernels: ['6.1.0-56-amd64', 'latest'],
      image: 'bootstrap',
      memoryMiB: 1024,
      cpus: 2,
      accel: 'tcg',
      proxy: 'http://proxy.example:3128',
    },
  ]);
});

test('warm prints what got ready although another kernel failed', async () => {
  const { code, stdout, stderr } = await cli(['images', 'warm'], {
    warmImages: (_, { report }) => {
      report({ kernel: 'a', distro: 'debian-12', snapshot: false });
      return Promise.reject(new Dkms2binError('not-found', 'No kernel b'));
    },
  });
  expect([code, stdout]).toEqual([3, 'ready  a  debian-12  boots cold\n']);
  expect(stderr).toContain('No kernel b');
});

test('help names every images command and only the options that matter to warm', async () => {
  const help = (await cli(['images', '--help'])).stdout;
  for (const name of ['list', 'prune', 'verify', 'warm'])
    expect(help).toMatch(new RegExp(`^  ${name} `, 'm'));
  const warm = (await cli(['images', 'warm', '--help'])).stdout;
  expect(warm).toContain('--kernel <release>');
  expect(warm).not.toContain('--out-dir');
});

test('update takes the newest image of the distros that are named, and says which are new', async () => {
  const asked: unknown[] = [];
  const updateImages = (distros: readonly string[]) => {
    asked.push(distros);
    const { length } = distros;
    const all = [
      { distro: 'debian-12', arch: 'x86_64' as const, state: 'new' as const },
      { distro: 'debian-13', arch: 'x86_64' as const, state: 'same' as const },
    ];
    return Promise.resolve(all.slice(0, length));
  };
  const both = await cli(['images', 'update', '--distro', 'debian-12,debian-13'], { updateImages });
  expect(both.stdout).toBe('new   debian-12  x86_64\nsame  debian-13  x86_64\n');
  const none = await cli(['images', 'update'], { updateImages });
  expect(none).toMatchObject({ code: 0, stdout: '' });
  expect(none.stderr).toContain('no official image to update');
  expect(asked).toEqual([['debian-12', 'debian-13'], []]);
});
