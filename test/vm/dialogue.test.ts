import { rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Terminal } from '../pty/terminal.js';
import { FIXTURES, kernels, ROAD, temporary, tool } from './tool.js';

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

/** A command that Ctrl-C ends. */
async function interrupt(terminal: Terminal): Promise<void> {
  terminal.type('echo started; sleep 600\r');
  await terminal.wait(/started\r/, MINUTES);
  await sleep(1000);
  terminal.type('\x03');
  await terminal.wait(PROMPT, MINUTES);
  await says(terminal, 'echo code=$?', 'code=130');
}

/** A command and a line of what it says. */
async function says(terminal: Terminal, command: string, line: string): Promise<void> {
  terminal.type(`${command}\r`);
  await terminal.wait(new RegExp(`\\n${line}\\r`), 5 * MINUTES);
  await terminal.wait(PROMPT, MINUTES);
}

async function useShell(shell: Terminal): Promise<void> {
  await shell.wait(/then run dkms2bin-rebuild\r+\n/, 2 * MINUTES);
  await shell.wait(PROMPT, MINUTES);
  shell.type(`${PLAIN}\r`);
  await shell.wait(PROMPT, MINUTES);
  await says(shell, 'pwd', '/var/lib/dkms/dk2b-broken/1\\.0/build');
  await says(shell, 'uname -r', kernel);
  await interrupt(shell);
  shell.resize(91, 37);
  await sleep(1000);
  await says(shell, 'stty size', '37 91');
  await says(shell, 'dkms2bin-rebuild', 'dkms build ended with [1-9].*');
}

test('one VM: the offered login, its rebuild, a second login, and the console', async () => {
  await using first = await Terminal.open(
    ['--dkms', join(FIXTURES, 'broken'), ...ROAD, '--kernel', kernel, '--out-dir', out, '--debug'],
    { env },
  );
  await first.wait(/kept as (\S+)\.\r\nLog in to the VM now\? \[Y\/n\] /, 30 * MINUTES);
  first.type('y\r');
  await useShell(first);

  await using second = await Terminal.open(['login'], { env });
  await second.wait(PROMPT, 2 * MINUTES);
  second.type('echo started; sleep 600\r');
  await second.wait(/started\r/, MINUTES);
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
  await interrupt(serial);
  await says(serial, 'tty', '/dev/ttyS0');
  // It ends the shell, and the console begins another one.
  serial.type('\x04');
  await serial.wait(PROMPT, 2 * MINUTES);
  serial.type('\x1d');
  expect(await serial.ended(MINUTES)).toBe(0);
  expect(await serial.restored()).toBe(true);

  // Commands of a script reach the same VM. It is the official image's: its disk has grown, and none of its upkeep is at work.
  const piped = await tool(['login'], { env, input: `${INSIDE}\nexit\n` });
  expect(piped.stdout, piped.stderr).toContain('/var/lib/dkms/dk2b-broken/1.0/build');
  expect(Number(/^size (\d+)\r?$/m.exec(piped.stdout)?.[1]) / 1024 ** 3).toBeGreaterThan(11);
  expect(piped.stdout).toMatch(/^upkeep 0\r?$/m);

  first.type('\x04');
  expect(await first.ended(3 * MINUTES)).toBe(1);
  expect(await first.restored()).toBe(true);

  // Booted again: what the package may have left in it finds no network, and the host's loopback no more than that.
  let reached = 0;
  const server = createServer((socket) => {
    reached += 1;
    socket.on('error', () => undefined).end('in');
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as AddressInfo;
  const ask = `pwd; timeout 20 bash -c 'exec 3<>/dev/tcp/10.0.2.2/${port}; head -c 1 <&3'; echo "out $?"`;
  const again = await tool(['login'], { env, input: `${ask}\nexit\n` });
  server.close();
  expect(again.stdout, again.stderr).toContain('/var/lib/dkms/dk2b-broken/1.0/build');
  expect(again.stdout).toMatch(/^out [1-9]\d*\r?$/m);
  expect(reached).toBe(0);
  expect((await tool(['rm', (await runs())[0]!], { env })).code).toBe(0);
  expect(await runs()).toEqual([]);
});

const INSIDE = `pwd; echo "size $(df -B1 --output=size / | tail -n 1)"
echo "upkeep $(systemctl list-units --plain --no-legend 'apt-*.timer' 'unattended-upgrades*' 'man-db*' 'fstrim*' | wc -l)"`;

async function runs(): Promise<string[]> {
  const { stdout } = await tool(['runs', '--json'], { env });
  return (JSON.parse(stdout) as { runs: { id: string }[] }).runs.map(({ id }) => id);
}
