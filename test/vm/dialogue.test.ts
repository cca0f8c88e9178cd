import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Terminal } from '../pty/terminal.js';
import { FIXTURES, kernels, temporary, tool } from './tool.js';

// The dialogues with a real guest, all in the VM of one failed build; their many endings are tested in test/pty.
let kernel = '';
let out = '';
let state = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  kernel = (await kernels()).newest;
  out = await temporary('out');
  state = await temporary('state');
  env = { DKMS2BIN_STATE: state };
});

afterAll(async () => {
  await rm(out, { recursive: true, force: true });
  await rm(state, { recursive: true, force: true });
});

const MINUTES = 60;
const PROMPT = /root@[^\n]*# $/;

/** No control sequences around what is typed. */
const PLAIN = "bind 'set enable-bracketed-paste off'";

async function useShell(shell: Terminal): Promise<void> {
  await shell.wait(/then run dkms2bin-rebuild\r+\n/, 2 * MINUTES);
  await shell.wait(PROMPT, MINUTES);
  shell.type(`${PLAIN}\r`);
  await shell.wait(PROMPT, MINUTES);
  shell.type('pwd; uname -r\r');
  await shell.wait(/\n\/var\/lib\/dkms\/dk2b-broken\/1\.0\/build\r/, MINUTES);
  await shell.wait(new RegExp(`\\n${kernel}\\r`), MINUTES);
  shell.type('sleep 600\r');
  await shell.wait(/sleep 600\r/, MINUTES);
  shell.type('\x03');
  await shell.wait(/\^C/, MINUTES);
  shell.type('echo code=$?\r');
  await shell.wait(/\ncode=130\r/, MINUTES);
  shell.resize(91, 37);
  shell.type('stty size\r');
  await shell.wait(/\n37 91\r/, MINUTES);
  shell.type('dkms2bin-rebuild\r');
  await shell.wait(/there_is_no_such_symbol[^]*dkms build ended with [1-9]/, 5 * MINUTES);
  await shell.wait(PROMPT, MINUTES);
}

test('one VM: the offered login, its rebuild, a second login, and the console', async () => {
  await using first = await Terminal.open(
    ['--dkms', join(FIXTURES, 'broken'), '--kernel', kernel, '--out-dir', out, '--debug'],
    { env },
  );
  await first.wait(/kept as (\S+)\.\r\nLog in to the VM now\? \[Y\/n\] /, 30 * MINUTES);
  first.type('y\r');
  await useShell(first);

  await using second = await Terminal.open(['login'], { env });
  await second.wait(PROMPT, 2 * MINUTES);
  second.type('sleep 600\r');
  await second.wait(/sleep 600\r/, MINUTES);
  // Out of a guest that does not answer: the key is the ssh client's.
  second.type('\r~.');
  expect(await second.ended(MINUTES)).toBe(5);
  expect(await second.restored()).toBe(true);

  await using serial = await Terminal.open(['login', '--serial'], { env });
  await serial.wait(/Ctrl-\] to leave/, MINUTES);
  serial.type('\r');
  await serial.wait(PROMPT, 2 * MINUTES);
  serial.type(`${PLAIN}\r`);
  await serial.wait(PROMPT, MINUTES);
  serial.type('sleep 600\r');
  await serial.wait(/sleep 600\r/, MINUTES);
  serial.type('\x03');
  await serial.wait(PROMPT, MINUTES);
  serial.type('tty\r');
  await serial.wait(/\n\/dev\/ttyS0\r/, MINUTES);
  // It ends the shell, and the console begins another one.
  serial.type('\x04');
  await serial.wait(PROMPT, 2 * MINUTES);
  serial.type('\x1d');
  expect(await serial.ended(MINUTES)).toBe(0);
  expect(await serial.restored()).toBe(true);

  first.type('\x04');
  expect(await first.ended(3 * MINUTES)).toBe(1);
  expect(await first.restored()).toBe(true);
  expect((await tool(['rm', (await runs())[0]!], { env })).code).toBe(0);
});

async function runs(): Promise<string[]> {
  const { stdout } = await tool(['runs', '--json'], { env });
  return (JSON.parse(stdout) as { runs: { id: string }[] }).runs.map(({ id }) => id);
}
