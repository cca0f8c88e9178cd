import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import ts from 'typescript';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { plainSources } from '../host/fixtures/plain-sources.js';

/**
 * The tool is killed at every step of a cell that changes the disk or tells an event, with a stand-in for the guest. After the next
 * run nothing of the killed one is left, and all that it had published is whole.
 */
const TEST = fileURLToPath(new URL('..', import.meta.url));
/** More than so many points tell nothing new. */
const MOST = 260;

let home = '';
let work = '';
beforeAll(async () => {
  work = await mkdtemp(join(tmpdir(), 'kill-points-'));
  home = await plainSources();
  const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
  for (const name of [
    'kill/processes/cell',
    'host/fixtures/steps',
    ...['deb', 'elf', 'guest', 'provenance'].map((n) => `unit/fixtures/${n}`),
  ]) {
    const text = ts.transpileModule(await readFile(join(TEST, `${name}.ts`), 'utf8'), { compilerOptions });
    const to = join(home, 'test', `${name}.js`);
    await mkdir(dirname(to), { recursive: true });
    await writeFile(to, text.outputText);
  }
});
afterAll(async () => {
  for (const each of [home, work]) await rm(each, { recursive: true, force: true });
});

interface Ended {
  signal: string | null;
  code: number;
  stdout: string;
  stderr: string;
}

function cell(dir: string, killAt: number | null, marker: string): Promise<Ended> {
  const env = {
    ...process.env,
    SETTING: JSON.stringify({ dir, killAt, marker }),
    ...{ DKMS2BIN_STATE: join(dir, 'state'), DKMS2BIN_CACHE: join(dir, 'cache') },
    XDG_RUNTIME_DIR: join(dir, 'run'),
  };
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [join(home, 'test/kill/processes/cell.js')],
      { env },
      (error, stdout, stderr) => {
        const { signal = null, code = 0 } = (error ?? {}) as { signal?: string | null; code?: number };
        resolve({ signal, code, stdout, stderr });
      },
    );
  });
}

async function placed(name: string): Promise<string> {
  const dir = join(work, name);
  for (const each of ['out', 'run']) await mkdir(join(dir, each), { recursive: true });
  return dir;
}

/** Paths below a folder, with the digest of what is the same in every run. */
async function filesOf(dir: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const each of await readdir(dir, { recursive: true, withFileTypes: true })) {
    if (!each.isFile()) continue;
    const path = join(each.parentPath, each.name);
    // Of these each run has its own: times, and paths of this folder.
    const varies =
      /\.jsonl$|meta\.json$|^Release$|\.dkms2bin-|journal|^run/.test(each.name) ||
      /\.dkms2bin-matrix|cache\/built/.test(path);
    found[path.slice(dir.length + 1)] = varies
      ? 'there'
      : createHash('sha256')
          .update(await readFile(path))
          .digest('hex');
  }
  return found;
}

/** Processes that the runs of a folder have started. */
async function processesOf(dir: string, marker: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const line = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ');
    if (line.includes(`9999${marker}`) || line.includes(`${dir}/`)) found.push(line);
  }
  return found;
}

/** All that a package of the out-dir must be at any moment: there as a whole, or not at all. */
async function published(dir: string, reference: Record<string, string>): Promise<string[]> {
  const wrong: string[] = [];
  for (const [path, digest] of Object.entries(await filesOf(join(dir, 'out')))) {
    if (!/\.(deb|log|cdx\.json)$/.test(path)) continue;
    if (reference[`out/${path}`] !== digest) wrong.push(path);
  }
  return wrong;
}

let reference: Record<string, string> = {};
let steps = 0;

test('a cell that nobody kills leaves packages, a repository and nothing else', async () => {
  const dir = await placed('reference');
  const ended = await cell(dir, null, '00');
  expect(ended, ended.stderr).toMatchObject({ code: 0, signal: null });
  ({ steps } = JSON.parse(ended.stdout) as { steps: number });
  reference = await filesOf(dir);
  expect(
    Object.keys(reference).filter((path) => path.startsWith('out/') && path.endsWith('.deb')),
  ).toHaveLength(2);
  expect(Object.keys(reference)).toEqual(expect.arrayContaining(['out/Packages', 'out/Release']));
  expect(Object.keys(reference).filter((path) => /\.part\b/.test(path))).toEqual([]);
  expect(existsSync(join(dir, 'state', 'runs'))).toBe(true);
  expect(await readdir(join(dir, 'state', 'runs'))).toEqual([]);
  expect(steps).toBeGreaterThanOrEqual(200);
});

test('killed at any step, the next run leaves the same, and nothing besides', async () => {
  const count = Math.min(steps, MOST);
  console.error(`of ${steps} steps ${count} are tried`);
  const points = Array.from({ length: count }, (_, at) => 1 + Math.floor((at * steps) / count));
  const wrong: string[] = [];
  const one = async (point: number): Promise<void> => {
    const dir = await placed(`at-${point}`);
    const marker = String(1000 + point);
    const killed = await cell(dir, point, marker);
    if (killed.signal !== 'SIGKILL') wrong.push(`${point}: not killed: ${JSON.stringify(killed)}`);
    for (const path of await published(dir, reference)) wrong.push(`${point}: ${path} is not whole`);
    const next = await cell(dir, null, marker);
    if (next.code !== 0) return void wrong.push(`${point}: the next run failed: ${next.stderr.slice(-500)}`);
    const now = await filesOf(dir);
    for (const path of new Set([...Object.keys(now), ...Object.keys(reference)]))
      if (now[path] !== reference[path]) wrong.push(`${point}: ${path} is ${now[path] ?? 'missing'}`);
    const index = createHash('sha256')
      .update(await readFile(join(dir, 'out/Packages')))
      .digest('hex');
    if (!(await readFile(join(dir, 'out/Release'), 'utf8')).includes(index))
      wrong.push(`${point}: Release does not name the index`);
    for (const folder of ['state/runs', 'state/scratch', 'run'])
      for (const name of await readdir(join(dir, folder))) wrong.push(`${point}: ${folder}/${name} is left`);
    for (let tries = 0; tries < 40 && (await processesOf(dir, marker)).length > 0; tries++) await sleep(100);
    for (const line of await processesOf(dir, marker)) wrong.push(`${point}: a process is left: ${line}`);
    // Told at once: the whole takes minutes.
    const own = wrong.filter((line) => line.startsWith(`${point}:`));
    if (own.length > 0) console.error(own.join('\n'));
    await rm(dir, { recursive: true, force: true });
  };
  const waiting = [...points];
  const workers = Array.from({ length: availableParallelism() }, async () => {
    for (let point = waiting.shift(); point !== undefined; point = waiting.shift()) await one(point);
  });
  await Promise.all(workers);
  expect(wrong).toEqual([]);
  expect(points.length).toBeGreaterThanOrEqual(200);
});
