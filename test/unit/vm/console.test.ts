import { appendFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ConsoleWatch } from '../../../src/vm/console.js';

let dir = '';
beforeEach(async () => void (dir = await mkdtemp(join(tmpdir(), 'console-'))));
afterEach(() => rm(dir, { recursive: true, force: true }));

test('each line once and whole, without what a terminal would obey; a file that comes late', async () => {
  const [path, lines] = [join(dir, 'console.log'), [] as string[]];
  using _watch = new ConsoleWatch(path, (line) => lines.push(line), 10);
  await sleep(30);
  await appendFile(path, 'SeaBIOS\r\n[    0.0] Linux ver');
  await expect.poll(() => lines).toEqual(['SeaBIOS']);
  await appendFile(path, 'sion\n\x1b[32m  OK  \x1b[0m Started ssh.\n\n');
  await expect.poll(() => lines).toEqual(['SeaBIOS', '[    0.0] Linux version', 'OK   Started ssh.']);
});

test('a guest that goes on writing is not silent, however long it takes; one that stops is', async () => {
  const path = join(dir, 'console.log');
  using watch = new ConsoleWatch(path, undefined, 10);
  using silent = watch.silent(400, () => new Error('silent'));
  let over = false;
  silent.catch(() => (over = true));
  for (let at = 0; at < 10; at += 1) {
    await appendFile(path, `${at}\n`);
    await sleep(100);
  }
  expect(over).toBe(false);
  await expect(silent).rejects.toThrow('silent');
});
