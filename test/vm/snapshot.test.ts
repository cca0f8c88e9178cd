import { execa } from 'execa';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cacheWithoutLayers, FIXTURES, kernels, MAIN, ROAD, temporary, tool, type Document } from './tool.js';

let kernel = '';
let out = '';
let state = '';
let cache = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  ({ cloud: kernel } = await kernels());
  out = await temporary('out');
  state = await temporary('state');
  cache = await cacheWithoutLayers();
  env = { DKMS2BIN_STATE: state, DKMS2BIN_CACHE: cache };
});

afterAll(async () => {
  await rm(out, { recursive: true, force: true });
  await rm(state, { recursive: true, force: true });
  await rm(cache, { recursive: true, force: true });
});

interface CacheRow {
  name: string;
  kind: string;
  created: string;
  inUse: boolean;
}

async function rows(kind: string, release: string): Promise<CacheRow[]> {
  const { images } = JSON.parse((await tool(['images', '--json'], { env })).stdout) as {
    images: CacheRow[];
  };
  return images.filter((row) => row.kind === kind && row.name.includes(` ${release}`));
}

const build = (source: string, release: string, ...more: string[]): string[] => [
  ...['--dkms', source, ...ROAD, '--kernel', release, '--out-dir', out, '--force', '--json', ...more],
];

test('two runs at once on a kernel that neither has make one layer and one snapshot', async () => {
  const both = await Promise.all(
    ['tiny', 'exclusive'].map((name) => tool(build(join(FIXTURES, name), kernel, '--no-verify'), { env })),
  );
  const verdicts = both.map((ended) => (JSON.parse(ended.stdout) as Document).cells[0]!.verdict);
  const said = both.map((ended) => ended.stderr).join('\n');
  expect(verdicts, said).toEqual(['built', 'skipped']);
  expect(said.split(`kernel layer ${kernel} done`), said).toHaveLength(2);
  expect(said.split(`memory snapshot ${kernel} done`), said).toHaveLength(2);
  expect(await rows('layer', kernel)).toHaveLength(1);
  expect(await rows('snapshot', kernel)).toHaveLength(1);
});

test('a second run makes nothing anew, and its module is the same to the byte as that of a cold boot', async () => {
  const ko = async (file: string): Promise<Buffer> => {
    const dir = await temporary('deb');
    await execa('dpkg-deb', ['-x', file, dir]);
    const bytes = await readFile(join(dir, `lib/modules/${kernel}/updates/dkms/dk2b_tiny.ko`));
    await rm(dir, { recursive: true, force: true });
    return bytes;
  };
  const source = join(FIXTURES, 'tiny');
  const first = await tool(build(source, kernel, '--no-verify'), { env });
  const warm = (JSON.parse(first.stdout) as Document).cells[0]!;
  expect(warm.verdict, first.stderr).toBe('built');
  const warmModule = await ko(warm.package!);
  const [snapshot] = await rows('snapshot', kernel);
  const [layer] = await rows('layer', kernel);
  expect(first.stderr).not.toMatch(/cold/i);

  const again = await tool(build(source, kernel, '--no-verify'), { env });
  expect((JSON.parse(again.stdout) as Document).cells[0]!.verdict).toBe('built');
  expect((await rows('snapshot', kernel))[0]!.created).toBe(snapshot!.created);
  expect((await rows('layer', kernel))[0]!.created).toBe(layer!.created);

  // The state of the snapshot is damaged, with its size unchanged: the run says so, boots cold and gets there.
  const file = await stateFile(kernel);
  const good = await readFile(file);
  await rm(file);
  await writeFile(file, Buffer.alloc(good.length, 0x5a));
  try {
    const cold = await tool(build(source, kernel, '--no-verify'), { env });
    const cell = (JSON.parse(cold.stdout) as Document).cells[0]!;
    expect(cell.verdict, cold.stderr).toBe('built');
    expect(cold.stderr.match(/Booting cold, without a memory snapshot/g)).toHaveLength(1);
    expect(Buffer.compare(await ko(cell.package!), warmModule)).toBe(0);
  } finally {
    await rm(file);
    await writeFile(file, good);
  }
});

async function stateFile(release: string): Promise<string> {
  const parent = join(cache, 'snapshots');
  for (const name of await readdir(parent)) {
    const meta = await readFile(join(parent, name, 'meta.json'), 'utf8').catch(() => '');
    if (meta.includes(`snapshot ${release}"`)) return join(parent, name, 'state');
  }
  throw new Error(`no snapshot of ${release}`);
}

test("clones have the right time, an identity and random numbers of their own; a package's code reaches no network", async () => {
  const nosy = ['--dkms', join(FIXTURES, 'nosy')];
  const more = ['--jobs', '1', '--debug', '--no-verify', '--verbose'];
  const ended = await tool(build(join(FIXTURES, 'who'), kernel, ...nosy, ...more), { env });
  const { cells } = JSON.parse(ended.stdout) as Document;
  expect(
    cells.map(({ verdict }) => verdict),
    ended.stderr,
  ).toEqual(['built', 'built']);
  const logs = await Promise.all(cells.map(({ log }) => readFile(log!, 'utf8')));
  const told = logs.map((log) => /^who: ([0-9a-f]{32}) ([0-9a-f]{32}) (\d+)$/m.exec(log)!.slice(1));
  const keys = cells.map(({ kept }) => readFile(join(state, 'runs', kept!, 'known_hosts'), 'utf8'));
  expect(new Set([...told.flatMap(([id, random]) => [id, random]), ...(await Promise.all(keys))]).size).toBe(
    6,
  );
  for (const [, , time] of told) expect(Math.abs(Date.now() / 1000 - Number(time))).toBeLessThan(1800);
  for (const { kept } of cells) expect((await tool(['rm', kept!], { env })).code).toBe(0);

  // `nosy` wants the network before its build, so that it has to be taken away again.
  expect(logs[1]).toContain('probe: done');
  expect(logs[1]!.match(/probe: nothing at/g)).toHaveLength(5);
  expect(logs[1]).toContain('probe: no name server');
  expect(logs[1]).not.toContain('REACHED');
});

test('what a run uses is not pruned', async () => {
  const run = execa('node', [MAIN, ...build(join(FIXTURES, 'tiny'), kernel, '--verbose', '--no-verify')], {
    env,
    reject: false,
    stdin: 'ignore',
  });
  let said = '';
  run.stderr.on('data', (data) => (said += String(data)));
  for (let i = 0; i < 600 && !/dkms …/.test(said); i++)
    await new Promise((resolve) => setTimeout(resolve, 100));
  expect(said).toMatch(/dkms …/);
  const [snapshot] = await rows('snapshot', kernel);
  expect((await rows('layer', kernel))[0]!.inUse).toBe(true);
  const pruned = await tool(['images', 'prune', '--max-size', '0', '--dry-run'], { env });
  expect(pruned.code, pruned.stderr).toBe(0);
  expect(pruned.stdout).not.toContain(`kernel ${kernel} on`);
  const ended = await run;
  expect((JSON.parse(ended.stdout) as Document).cells[0]!.verdict, ended.stderr).toBe('built');
  expect((await rows('snapshot', kernel)).map((row) => row.created)).toContain(snapshot!.created);
});

test('another shape of VM gets a snapshot of its own; the first one stays', async () => {
  const before = await rows('snapshot', kernel);
  const ended = await tool(build(join(FIXTURES, 'exclusive'), kernel, '--memory', '1536'), { env });
  expect((JSON.parse(ended.stdout) as Document).cells[0]!.verdict, ended.stderr).toBe('skipped');
  const after = await rows('snapshot', kernel);
  expect(after).toHaveLength(before.length + 1);
  expect(after.map((row) => row.created)).toContain(before[0]!.created);
});
