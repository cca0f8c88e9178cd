import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cacheDir } from '../../src/lib/paths.js';
import { FIXTURES, kernels, MAIN, ROAD, temporary, tool, type Document } from '../vm/tool.js';

/** The tool is killed with SIGKILL after 20 events of a cell with real VMs. After the next run nothing of it is left. */
const POINTS = 20;

let kernel = '';
let work = '';
/** Short: a socket's path holds 108 bytes. */
let sockets = '';
let env: Record<string, string> = {};
beforeAll(async () => {
  kernel = (await kernels()).newest;
  work = await temporary('kill');
  sockets = await mkdtemp('/tmp/dk2b-s-');
  env = { DKMS2BIN_STATE: join(work, 'state'), XDG_RUNTIME_DIR: sockets };
});
afterAll(async () => {
  for (const dir of [work, sockets]) await rm(dir, { recursive: true, force: true });
});

const args = (out: string): string[] => [
  ...['--dkms', join(FIXTURES, 'tiny'), ...ROAD, '--kernel', kernel, '--force'],
  ...['--out-dir', join(work, out), '--json'],
];

/** Runs it, and kills it when it has told so many events, a line each; resolves to their number. */
async function killedAfter(events: number, out: string): Promise<number> {
  const child = spawn(process.execPath, [MAIN, ...args(out)], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const gone = new Promise((resolve) => child.once('close', resolve));
  let seen = 0;
  for await (const _ of createInterface({ input: child.stderr }))
    if (++seen === events) child.kill('SIGKILL');
  await gone;
  return seen;
}

/** QEMU and what else runs for these tests. */
async function processes(): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (line.includes(`${work}/`) || line.includes(`${sockets}/`))
      found.push(line.replaceAll('\0', ' ').slice(0, 200));
  }
  return found;
}

/** Of others, who may be making something in the same cache. */
const others = new Set<string>();

async function left(): Promise<string[]> {
  const found: string[] = [];
  for (const folder of ['state/runs', 'state/scratch'])
    for (const name of await readdir(join(work, folder)).catch(() => [])) found.push(`${folder}/${name}`);
  for (const name of await readdir(sockets)) found.push(`socket folder ${name}`);
  for (const kind of ['images', 'layers', 'snapshots'])
    for (const name of await readdir(join(cacheDir(), kind)).catch(() => []))
      if (name.endsWith('.part') && !others.has(`${kind}/${name}`)) found.push(`${kind}/${name}`);
  for (const name of await readdir(join(work, 'out')).catch(() => []))
    if (name.endsWith('.part')) found.push(`out/${name}`);
  return found;
}

test('killed after any of 20 events, it leaves nothing', async () => {
  await mkdir(join(work, 'out'));
  for (const name of await left()) others.add(name);
  const events = await killedAfter(Infinity, 'whole');
  expect(events).toBeGreaterThan(POINTS / 2);
  const names = (await readdir(join(work, 'whole'))).sort();
  const wrong: string[] = [];
  for (let at = 0; at < POINTS; at++) {
    // With fewer lines than points, some are tried twice, a moment later.
    const point = 1 + Math.floor((at * events) / POINTS);
    await killedAfter(point, 'out');
    for (let tries = 0; tries < 50 && (await processes()).length > 0; tries++) await sleep(200);
    // What looks for runs removes dead ones.
    await tool(['runs'], { env });
    const now = [...(await processes()), ...(await left())];
    if (now.length > 0) wrong.push(`after event ${point} of ${events}: ${now.join(', ')}`);
    // Told at once: the whole takes long.
    console.error(now.length > 0 ? wrong.at(-1) : `after event ${point} of ${events}: nothing is left`);
    for (const name of await readdir(join(work, 'out')))
      if (!names.includes(name)) wrong.push(`after event ${point}: out/${name}`);
  }
  expect(wrong).toEqual([]);
  const ended = await tool(
    args('out').filter((word) => word !== '--force'),
    { env },
  );
  expect((JSON.parse(ended.stdout) as Document).cells, ended.stderr).toMatchObject([{ verdict: 'built' }]);
  expect((await readdir(join(work, 'out'))).sort()).toEqual(names);
  expect(existsSync(join(work, 'out', names[0]!))).toBe(true);
});
