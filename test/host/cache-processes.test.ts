import { execa } from 'execa';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cacheItems } from '../../src/cache/entries.js';
import { entry, MIB, ownCache } from './cache-fixture.js';
import { plainSources } from '../unit/processes.js';

// Real processes: this program runs the sources as plain JavaScript.
const PROGRAM = `
import { access, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cached } from './src/cache/entries.js';
import { prune } from './src/cache/upkeep.js';
const [task, argument] = process.argv.slice(2);
const once = async (maxBytes) => {
  const { removed } = await prune({ maxBytes, dryRun: false, signal: new AbortController().signal });
  return removed.map((r) => r.name);
};
const ended = join(process.env.DKMS2BIN_CACHE, 'ended');
const said = [];
if (task === 'prune') {
  said.push(...(await once(Number(argument))));
} else if (task === 'prune-times') {
  while (said.length < Number(argument)) said.push(...(await once(0)));
  await writeFile(ended, '');
} else {
  while (!(await access(ended).then(() => true, () => false))) {
    const { dir, use } = await cached('layers', 'same', async (to) => {
      await writeFile(join(to, 'disk.qcow2'), 'whole');
      return { name: 'same' };
    });
    // Looks old at once, so that the lock alone keeps it.
    await utimes(join(dir, 'meta.json'), 0, 0);
    await sleep(20);
    said.push(await readFile(join(dir, 'disk.qcow2'), 'utf8'));
    await use.release();
    await sleep(40);
  }
}
console.log(JSON.stringify(said));
`;

const cache = ownCache();
let home = '';

beforeAll(async () => {
  home = await plainSources(['model', 'lib', 'cache']);
  await writeFile(join(home, 'program.js'), PROGRAM);
}, 60_000);

afterAll(() => rm(home, { recursive: true, force: true }));

const other = async (...args: string[]): Promise<string[]> => {
  const env = { DKMS2BIN_CACHE: cache.dir };
  const { stdout } = await execa(process.execPath, [join(home, 'program.js'), ...args], { env });
  return JSON.parse(stdout) as string[];
};

test('two processes that prune at once remove no more than one would', async () => {
  for (let i = 0; i < 6; i++) await entry('layers', `layer${i}`, { days: 20 - i });
  const limit = String(3.5 * MIB);
  const removed = (await Promise.all([other('prune', limit), other('prune', limit)])).flat();
  expect(removed.sort()).toEqual(['layer0 layer0', 'layer1 layer1', 'layer2 layer2']);
  expect((await cacheItems()).map((i) => i.hash)).toEqual(['layer3', 'layer4', 'layer5']);
});

test('while one process prunes, others that make and use the same entry never miss it', async () => {
  const [first, second, removed] = await Promise.all([
    other('make'),
    other('make'),
    other('prune-times', '3'),
  ]);
  expect(removed).toEqual(Array(3).fill('same same'));
  expect(first.length + second.length).toBeGreaterThan(3);
  expect(new Set([...first, ...second])).toEqual(new Set(['whole']));
}, 60_000);
