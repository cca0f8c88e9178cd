import { createServer, type Server } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { RunDir } from '../../src/cell/run-dir.js';
import { GUEST, Terminal } from './terminal.js';

// The run is a real record that this process holds; its guest is a shell of this host behind a stand-in for ssh.
let home: string;
let run: RunDir;
let console_: Server;
let env: Record<string, string>;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'dk2b-pty-'));
  process.env.DKMS2BIN_STATE = home;
  run = await RunDir.create({ cell: 'broken', kernel: '6.1.0-56-amd64', distro: 'debian-12' });
  await run.save({ live: { socketDir: home, sshPort: 1 } });
  env = { DKMS2BIN_STATE: home, PATH: `${GUEST}${delimiter}${process.env.PATH}` };
  console_ = createServer((peer) => peer.on('data', (data) => peer.write(`[${data.toString('hex')}]`)));
  await new Promise<void>((ready) => console_.listen(join(home, 'console'), ready));
});
afterAll(async () => {
  console_.close();
  await run.close();
  await rm(home, { recursive: true, force: true });
});

const offered = (more: string[] = []): Promise<Terminal> =>
  Terminal.open(['--dkms', 'broken', ...more, '--debug'], { env, standIn: true });

test('the offered login: what is typed reaches the shell, Ctrl-D ends it', async () => {
  await using terminal = await offered();
  await terminal.wait(/Log in to the VM now\? \[Y\/n\] /);
  terminal.type('y\r');
  await terminal.wait(/guest# $/);
  terminal.type('echo $((40 + 2))\r');
  await terminal.wait(/\n42\r+\n/);
  await terminal.wait(/guest# $/);
  terminal.type('\x04');
  expect(await terminal.ended()).toBe(1);
  expect(await terminal.restored()).toBe(true);
});
