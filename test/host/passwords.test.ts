import { execFileSync, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { corpus } from '../hostile/corpus.js';
import { plainSources } from './fixtures/plain-sources.js';

/** A password in a URL: the command itself is run, and all is looked at that it shows, starts and leaves. */
const SECRET = 'c0ffee-marker-secret';

interface Row {
  what: string;
  /** LOGIN is a user with a password, HOST a web server that has nothing, DIR the row's folder, with a source `m`. */
  args: string[];
  env?: Record<string, string>;
  does?: string;
  /** After which it is interrupted: it waits for what does not come. */
  seconds?: number;
  /** What it says of the URL: else nothing would be shown. */
  answer: string;
}

let home = '';
let dir = '';
let server: Server;
let host = '';
/** While the server is asked the command runs: then it is looked at. */
let asked = 0;
beforeAll(async () => {
  home = await plainSources();
  server = createServer((request, response) => {
    asked += 1;
    setTimeout(() => response.writeHead(404).end(`not ${request.url}`), 150);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await rm(home, { recursive: true, force: true });
});
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dk2b-passwords-'));
  await mkdir(join(dir, 'out'));
  execFileSync('sh', ['-c', "mkdir m; printf 'PACKAGE_NAME=m\\nPACKAGE_VERSION=1\\n' >m/dkms.conf"], {
    cwd: dir,
  });
});
afterEach(() => rm(dir, { recursive: true, force: true }));

/** Of this process and all below it, the arguments; of those below it the variables, too. */
async function seenOf(pid: number): Promise<string[]> {
  const read = (name: string): Promise<string> => readFile(`/proc/${pid}/${name}`, 'latin1').catch(() => '');
  const children = (await read(`task/${pid}/children`)).split(' ').filter(Boolean).map(Number);
  const below = await Promise.all(
    children.map(async (child) => [
      await readFile(`/proc/${child}/environ`, 'latin1').catch(() => ''),
      ...(await seenOf(child)),
    ]),
  );
  return [await read('cmdline'), ...below.flat()];
}

async function leftIn(folder: string): Promise<string[]> {
  const left: string[] = [];
  for (const each of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(each.parentPath, each.name);
    if (path.includes(SECRET)) left.push(path);
    if (each.isFile() && (await readFile(path)).includes(SECRET)) left.push(path);
  }
  return left;
}

test.each(corpus<Row>('passwords').map((row) => [row.what, row] as const))(
  'is nowhere to be seen: %s',
  async (_, row) => {
    const filled = (text: string): string =>
      text.replaceAll('LOGIN', `me:${SECRET}`).replaceAll('HOST', host).replaceAll('DIR', dir);
    if (row.does !== undefined) execFileSync('sh', ['-c', filled(row.does)], { cwd: dir });
    const before = await leftIn(dir);
    const { http_proxy: _http, https_proxy: _https, all_proxy: _all, no_proxy: _no, ...others } = process.env;
    const env = {
      ...others,
      ...{ DKMS2BIN_CACHE: join(dir, 'cache'), DKMS2BIN_STATE: join(dir, 'state') },
      ...Object.fromEntries(Object.entries(row.env ?? {}).map(([name, value]) => [name, filled(value)])),
    };
    const child = spawn(process.execPath, [join(home, 'src/main.js'), ...row.args.map(filled)], {
      cwd: dir,
      env,
    });
    let said = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (said += chunk.toString()));
    let isOver = false;
    const ended = new Promise<void>((done) => child.once('close', () => done())).then(() => (isOver = true));
    const begun = asked;
    const seen: string[] = [];
    const end = Date.now() + (row.seconds ?? 40) * 1000;
    while (!isOver && Date.now() < end) {
      if (asked > begun) seen.push(...(await seenOf(child.pid!)));
      await sleep(20);
    }
    child.kill('SIGTERM');
    await Promise.race([ended, sleep(10_000)]);
    child.kill('SIGKILL');
    await ended;
    expect(said).toContain(filled(row.answer));
    expect(said).not.toContain(SECRET);
    expect(seen.filter((text) => text.includes(SECRET))).toEqual([]);
    expect(await leftIn(dir)).toEqual(before);
    if (seen.length > 0 && row.args.join().includes('LOGIN')) expect(seen.join()).toContain('dkms2bin ');
  },
);
