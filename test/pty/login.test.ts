import { createServer, type Server } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { RunDir } from '../../src/cell/run-dir.js';
import { GUEST, Terminal } from './terminal.js';

// The run is a real record that this process holds; its guest is a shell of this host behind a stand-in for ssh.
let home: string;
let run: RunDir;
let port: Server;
let env: Record<string, string>;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'dk2b-pty-'));
  process.env.DKMS2BIN_STATE = home;
  run = await RunDir.create({ cell: 'broken', kernel: '6.1.0-56-amd64', distro: 'debian-12' });
  await run.save({ live: { socketDir: home, sshPort: 1 } });
  env = { DKMS2BIN_STATE: home, PATH: `${GUEST}${delimiter}${process.env.PATH}` };
  // The console: says what it gets, and Ctrl-Q ends it as the end of the VM does.
  port = createServer((peer) => {
    peer.on('error', () => undefined);
    peer.on('data', (data) => {
      if (data.includes(0x11)) peer.destroy();
      else peer.write(`[${data.toString('hex')}]`);
    });
  });
  await new Promise<void>((ready) => port.listen(join(home, 'console'), ready));
});
afterAll(async () => {
  port.close();
  await run.close();
  await rm(home, { recursive: true, force: true });
});

const offered = (modules = ['broken'], options = {}): Promise<Terminal> =>
  Terminal.open([...modules.flatMap((each) => ['--dkms', each]), '--debug'], {
    ...{ env, standIn: true },
    ...options,
  });
const QUESTION = /Log in to the VM now\? \[Y\/n\] $/;
const PROMPT = /guest# $/;

async function shellOf(terminal: Terminal): Promise<void> {
  await terminal.wait(QUESTION);
  terminal.type('y\r');
  await terminal.wait(PROMPT);
}

async function gone(pid: number): Promise<boolean> {
  for (let i = 0; i < 100; i++) {
    try {
      process.kill(pid, 0);
    } catch {
      return true;
    }
    await sleep(50);
  }
  return false;
}

describe('the question', () => {
  test.each([
    ['n and Enter', 'n\r'],
    ['Ctrl-D', '\x04'],
  ])('%s: no', async (_, keys) => {
    await using terminal = await offered();
    await terminal.wait(QUESTION);
    terminal.type(keys);
    expect(await terminal.ended()).toBe(1);
    expect(terminal.text).not.toContain('guest#');
    expect(await terminal.restored()).toBe(true);
  });

  test('Ctrl-C interrupts the run', async () => {
    await using terminal = await offered(['broken', 'broken-too']);
    await terminal.wait(QUESTION);
    terminal.type('\x03');
    expect(await terminal.ended()).toBe(130);
    expect(terminal.text.match(/Log in/g)).toHaveLength(1);
    expect(terminal.text).not.toContain('could not log in');
    expect(await terminal.restored()).toBe(true);
  });

  test('after a no by Ctrl-D the next question can be answered; what is typed can be corrected', async () => {
    await using terminal = await offered(['broken', 'broken-too']);
    await terminal.wait(QUESTION);
    terminal.type('\x04');
    await terminal.wait(QUESTION);
    terminal.type('no\x7f\x7fq\x15y');
    await terminal.wait(/\[Y\/n\] y$/);
    terminal.type('\r');
    await terminal.wait(PROMPT);
    terminal.type('exit\r');
    expect(await terminal.ended()).toBe(1);
  });

  test('SIGTERM and a closed terminal end the run', async () => {
    await using killed = await offered(['broken'], { bare: true });
    await killed.wait(QUESTION);
    killed.kill('SIGTERM');
    expect(await killed.ended()).toBe(130);
    await using closed = await offered(['broken'], { bare: true });
    await closed.wait(QUESTION);
    closed.hangUp();
    expect(await closed.ended()).toBe(130);
  });
});

describe('the offered shell', () => {
  test('what is typed reaches it, Ctrl-C is its own, Ctrl-D ends it', async () => {
    await using terminal = await offered();
    await shellOf(terminal);
    terminal.type('echo $((40 + 2))\r');
    await terminal.wait(/\n42\r+\n/);
    await terminal.wait(PROMPT);
    terminal.type('sleep 600\r');
    await terminal.wait(/sleep 600\r/);
    await sleep(300);
    terminal.type('\x03');
    await terminal.wait(PROMPT);
    terminal.type('echo code=$?\r');
    await terminal.wait(/\ncode=130\r/);
    await terminal.wait(PROMPT);
    terminal.type('\x04');
    expect(await terminal.ended()).toBe(1);
    expect(await terminal.restored()).toBe(true);
  });

  test('what was typed ahead of it reaches it', async () => {
    await using terminal = await offered();
    await terminal.wait(QUESTION);
    terminal.type('y\recho $((40 + 2))\r');
    await terminal.wait(/42\r+\n/);
    terminal.type('exit\r');
    expect(await terminal.ended()).toBe(1);
  });

  test('a new size of the window reaches it', async () => {
    await using terminal = await offered();
    await shellOf(terminal);
    terminal.type('stty size\r');
    await terminal.wait(/\n30 100\r/);
    terminal.resize(71, 19);
    await sleep(300);
    terminal.type('stty size\r');
    await terminal.wait(/\n19 71\r/);
    terminal.type('exit\r');
    expect(await terminal.ended()).toBe(1);
  });

  test('bytes pass as they are: no line feed is changed, no character is cut in two', async () => {
    await using terminal = await offered();
    await shellOf(terminal);
    terminal.type("stty -onlcr; printf 'up\\ndown'; stty onlcr\r");
    await terminal.wait(/up\ndown/);
    await terminal.wait(PROMPT);
    terminal.type('head -n 1 | od -An -tx1\r');
    await sleep(300);
    terminal.type(Buffer.from([0xc3]));
    await sleep(100);
    terminal.type(Buffer.from([0xa4, 0x0d]));
    await terminal.wait(/ c3 a4 0a\r/);
    terminal.type('exit\r');
    expect(await terminal.ended()).toBe(1);
  });

  test('a broken connection is told, and the terminal is as before', async () => {
    await using terminal = await offered();
    await shellOf(terminal);
    terminal.type('exit 255\r');
    expect(await terminal.ended()).toBe(1);
    expect(terminal.text).toContain('could not log in: The ssh connection');
    expect(await terminal.restored()).toBe(true);
  });

  test('SIGTERM ends it and the run', async () => {
    await using terminal = await offered();
    await shellOf(terminal);
    terminal.type('echo pid=$$.\r');
    const pid = Number((await terminal.wait(/\npid=(\d+)\./))[1]);
    terminal.type('kill -TERM $PPID\r');
    expect(await terminal.ended()).toBe(130);
    expect(await terminal.restored()).toBe(true);
    expect(await gone(pid)).toBe(true);
  });

  test('a closed terminal ends it and the run', async () => {
    await using terminal = await offered(['broken'], { bare: true });
    await shellOf(terminal);
    terminal.type('echo pid=$$.\r');
    const pid = Number((await terminal.wait(/\npid=(\d+)\./))[1]);
    terminal.hangUp();
    expect(await terminal.ended()).toBe(130);
    expect(await gone(pid)).toBe(true);
  });
});

describe('login', () => {
  test('a shell that Ctrl-D ends', async () => {
    await using terminal = await Terminal.open(['login'], { env });
    await terminal.wait(/exit or Ctrl-D ends the shell/);
    await terminal.wait(PROMPT);
    terminal.type('\x03');
    await terminal.wait(PROMPT);
    terminal.type('\x04');
    expect(await terminal.ended()).toBe(0);
    expect(await terminal.restored()).toBe(true);
  });

  test('SIGTERM and a closed terminal end it', async () => {
    await using killed = await Terminal.open(['login'], { env });
    await killed.wait(PROMPT);
    killed.type('kill -TERM $PPID\r');
    expect(await killed.ended()).toBe(130);
    expect(await killed.restored()).toBe(true);
    await using closed = await Terminal.open(['login'], { env, bare: true });
    await closed.wait(PROMPT);
    closed.hangUp();
    expect(await closed.ended()).toBe(130);
  });

  test('--serial: Ctrl-C and Ctrl-D are the console’s, Ctrl-] leaves', async () => {
    await using terminal = await Terminal.open(['login', '--serial'], { env });
    await terminal.wait(/Ctrl-\] to leave/);
    terminal.type('\x03');
    await terminal.wait(/\[03\]/);
    terminal.type('\x04');
    await terminal.wait(/\[04\]/);
    terminal.type('\x1d');
    expect(await terminal.ended()).toBe(0);
    expect(await terminal.restored()).toBe(true);
  });

  test('--serial: the end of the VM, SIGTERM and a closed terminal end it', async () => {
    const [end, killed, closed] = await Promise.all([
      Terminal.open(['login', '--serial'], { env }),
      Terminal.open(['login', '--serial'], { env, bare: true }),
      Terminal.open(['login', '--serial'], { env, bare: true }),
    ]);
    for (const each of [end, killed, closed]) await each.wait(/Ctrl-\] to leave/);
    // The stand-in's word for a VM that ends.
    end.type('\x11');
    expect(await end.ended()).toBe(0);
    expect(await end.restored()).toBe(true);
    killed.kill('SIGTERM');
    expect(await killed.ended()).toBe(130);
    closed.hangUp();
    expect(await closed.ended()).toBe(130);
    for (const each of [end, killed, closed]) await each[Symbol.asyncDispose]();
  });
});
