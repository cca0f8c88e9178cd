import { createHash, randomBytes } from 'node:crypto';
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Channel } from '../../../src/guest/channel.js';
import { Guest } from '../../../src/guest/guest.js';
import type { Command, ExecIo } from '../../../src/guest/transport.js';

// The real agent under this host's python3. Two sockets and a pipe between them stand for QEMU's virtio-serial port.
const AGENT = fileURLToPath(new URL('../../../cloud-init/guest/agent.py', import.meta.url));
const alive = <T>(work: Promise<T>): Promise<T> => work;

let dir = '';
let agent: ChildProcess;
let servers: Server[] = [];
let host: Promise<Socket>;
const channels: Channel[] = [];

const listen = (path: string): Promise<Server> =>
  new Promise((resolve) => {
    const server = createServer();
    servers.push(server);
    server.listen(path, () => resolve(server));
  });

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dk2b-agent-'));
  const guestSide = await listen(join(dir, 'port'));
  const hostSide = await listen(join(dir, 'qemu'));
  const port = new Promise<Socket>((resolve) => guestSide.once('connection', resolve));
  host = new Promise((resolve) => {
    hostSide.on('connection', (socket) => {
      socket.on('error', () => undefined);
      void port.then((p) => {
        p.on('error', () => undefined);
        p.removeAllListeners('data');
        socket.on('data', (data) => p.write(data));
        p.on('data', (data) => socket.write(data));
        resolve(socket);
      });
    });
  });
  agent = spawn('python3', ['-IS', AGENT, join(dir, 'port')], { stdio: ['ignore', 'ignore', 'inherit'] });
});

afterEach(async () => {
  for (const channel of channels.splice(0)) await channel.close();
  agent.kill('SIGKILL');
  for (const server of servers) server.close();
  servers = [];
  await rm(dir, { recursive: true, force: true });
});

async function connect(): Promise<Channel> {
  const channel = await Channel.connect(join(dir, 'qemu'), { deadlineMs: 10_000, alive });
  channels.push(channel);
  return channel;
}

async function exec(
  channel: Channel,
  command: Command,
  more: Partial<ExecIo> = {},
): Promise<{ code: number | null; timedOut: boolean; stdout: Buffer; stderr: string }> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const read = async (stream: PassThrough): Promise<Buffer> => {
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks);
  };
  const texts = Promise.all([read(stdout), read(stderr)]);
  const ended = await channel.exec(command, { stdout, stderr, timeoutMs: 10_000, ...more });
  const [out, err] = await texts;
  return { ...ended, stdout: out, stderr: err.toString() };
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

test('exit code, both outputs and the standard input of a command', async () => {
  const channel = await connect();
  const result = await exec(
    channel,
    { sh: 'read line; echo "got $line"; echo oops >&2; exit 7' },
    { input: 'this\n' },
  );
  expect(result).toMatchObject({ code: 7, timedOut: false, stderr: 'oops\n' });
  expect(result.stdout.toString()).toBe('got this\n');
  expect((await exec(channel, { sh: 'pwd; cat' })).stdout.toString()).toBe('/\n');
});

test('20 MB out and 5 MB in arrive byte for byte', async () => {
  const channel = await connect();
  const bytes = randomBytes(5 * 1024 * 1024);
  const file = join(dir, 'input');
  await writeFile(file, bytes);
  const echoed = await exec(channel, { sh: 'cat; cat /dev/null' }, { input: { file } });
  expect(sha256(echoed.stdout)).toBe(sha256(bytes));
  const many = randomBytes(20_000_000);
  await writeFile(file, many);
  const read = await exec(channel, { sh: `cat ${file}` });
  expect(sha256(read.stdout)).toBe(sha256(many));
});

test('a Python program runs in a fork of the agent; its exit code and its sys.exit text are told', async () => {
  const channel = await connect();
  const good = await exec(channel, { python: 'import sys\nsys.stdout.buffer.write(b"\\x00\\xff")' });
  expect([good.code, good.stdout]).toEqual([0, Buffer.from([0, 255])]);
  const bad = await exec(channel, { python: 'import sys\nsys.exit("no result here")' });
  expect([bad.code, bad.stderr]).toEqual([1, 'no result here\n']);
});

test('a timeout ends the command with its children, and the next command is not disturbed', async () => {
  const channel = await connect();
  const marker = join(dir, 'alive');
  const slow = await exec(channel, { sh: `(sleep 1.5; touch ${marker}) & sleep 60` }, { timeoutMs: 300 });
  expect(slow).toMatchObject({ code: null, timedOut: true });
  expect(await exec(channel, { sh: 'echo next' })).toMatchObject({ code: 0 });
  const later = await exec(channel, { sh: `sleep 2; test -e ${marker}` });
  expect(later.code).toBe(1);
});

test('a child that stays in the background with the output open does not hold the command', async () => {
  const channel = await connect();
  const started = Date.now();
  const result = await exec(channel, { sh: 'sleep 30 & echo done' });
  expect(result.stdout.toString()).toBe('done\n');
  expect(Date.now() - started).toBeLessThan(5000);
});

test('a command that does not read its input ends like any other, and the next one gets only its own', async () => {
  const channel = await connect();
  const result = await exec(channel, { sh: 'exit 3' }, { input: randomBytes(8 * 1024 * 1024) });
  expect(result.code).toBe(3);
  const next = await exec(channel, { sh: 'cat' }, { input: 'mine' });
  expect(next.stdout.toString()).toBe('mine');
});

test('a timeout ends a command that leaves its input unread, and the next command runs', async () => {
  const channel = await connect();
  const input = randomBytes(8 * 1024 * 1024);
  const started = Date.now();
  const slow = await exec(channel, { sh: 'sleep 60' }, { input, timeoutMs: 500 });
  expect(slow).toMatchObject({ code: null, timedOut: true });
  expect(Date.now() - started).toBeLessThan(5000);
  expect((await exec(channel, { sh: 'cat' }, { input: 'mine' })).stdout.toString()).toBe('mine');
});

test('a timeout is told although nobody reads the output', async () => {
  const channel = await connect();
  const started = Date.now();
  const ended = await channel.exec(
    { sh: 'head -c 3000000 /dev/zero; sleep 60' },
    { stdout: new PassThrough(), stderr: new PassThrough(), timeoutMs: 500 },
  );
  expect(ended).toEqual({ code: null, timedOut: true });
  expect(Date.now() - started).toBeLessThan(5000);
  expect((await exec(channel, { sh: 'echo next' })).stdout.toString()).toBe('next\n');
});

test('a timeout right after the start', async () => {
  const channel = await connect();
  for (let i = 0; i < 10; i++) {
    const ended = await exec(channel, { sh: 'sleep 60' }, { timeoutMs: 0 });
    expect(ended).toMatchObject({ code: null, timedOut: true });
  }
  expect((await exec(channel, { sh: 'echo next' })).code).toBe(0);
});

test("input that cannot be read is the host's fault", async () => {
  const channel = await connect();
  const input = { file: join(dir, 'missing') };
  await expect(exec(channel, { sh: 'cat' }, { input })).rejects.toMatchObject({
    fault: 'host',
    message: expect.stringContaining(input.file) as string,
  });
});

test('a new connection in the middle of a command finds a clean channel', async () => {
  const first = await connect();
  const broken = exec(first, { sh: 'head -c 3000000 /dev/zero; sleep 60' });
  await host;
  await new Promise((resolve) => setTimeout(resolve, 300));
  await first.close();
  await expect(broken).rejects.toMatchObject({ fault: 'transient' });
  const second = await connect();
  expect((await exec(second, { sh: 'echo fresh' })).stdout.toString()).toBe('fresh\n');
});

// What a connection leaves behind when it is cut within a message.
test.each([
  ['a header', Buffer.from('i\0\0')],
  ['the input', Buffer.concat([Buffer.from([0x69, 0, 0, 0x40, 0]), Buffer.alloc(100, 'z')])],
  ['a command', Buffer.concat([Buffer.from([0x78, 0, 0, 0, 50]), Buffer.from('{"sh": "ec')])],
])('a connection cut within %s does not spoil the next one', async (_, cut) => {
  await (await connect()).close();
  const raw = createConnection(join(dir, 'qemu'));
  await new Promise((resolve) => raw.write(cut, resolve));
  await new Promise((resolve) => setTimeout(resolve, 200));
  raw.destroy();
  const channel = await connect();
  expect((await exec(channel, { sh: 'cat' }, { input: 'mine' })).stdout.toString()).toBe('mine');
});

test('an answer to another nonce is no answer', async () => {
  const server = await listen(join(dir, 'older'));
  server.on('connection', (socket) => {
    socket.write(Buffer.concat([Buffer.from([0x68, 0, 0, 0, 32]), Buffer.from('0'.repeat(32))]));
  });
  await expect(Channel.connect(join(dir, 'older'), { deadlineMs: 300, alive })).rejects.toMatchObject({
    fault: 'transient',
  });
});

test('a guest that sends nonsense is a broken channel, not a crash', async () => {
  const server = await listen(join(dir, 'hostile'));
  server.on('connection', (socket) => {
    socket.once('data', (hello) => {
      socket.write(Buffer.concat([Buffer.from('left over'), hello]));
      socket.once('data', () => socket.write(Buffer.from([0x6f, 0x7f, 0xff, 0xff, 0xff])));
    });
  });
  const channel = await Channel.connect(join(dir, 'hostile'), { deadlineMs: 5000, alive });
  channels.push(channel);
  await expect(exec(channel, { sh: 'true' })).rejects.toMatchObject({ fault: 'transient' });
});

test('an agent that was started anew after it had read the greeting is greeted again', async () => {
  const server = await listen(join(dir, 'late'));
  server.on('connection', (socket) => {
    socket.once('data', () => socket.on('data', (again) => socket.write(again)));
  });
  const options = { deadlineMs: 8000, greetAgainMs: 200, alive };
  channels.push(await Channel.connect(join(dir, 'late'), options));
});

test('nobody at the other end: the deadline is told', async () => {
  await listen(join(dir, 'silent'));
  await expect(Channel.connect(join(dir, 'silent'), { deadlineMs: 200, alive })).rejects.toMatchObject({
    fault: 'transient',
    message: expect.stringContaining('0.2 s') as string,
  });
});

test('fetch refuses a file larger than its limit', async () => {
  const guest = new Guest({ transport: await connect(), alive });
  await writeFile(join(dir, 'big'), Buffer.alloc(1000));
  await guest.fetch(join(dir, 'big'), join(dir, 'copy'), 1000);
  await expect(guest.fetch(join(dir, 'big'), join(dir, 'copy'), 999)).rejects.toThrow(
    /larger than 999 bytes/,
  );
});

test('text keeps what a command prints up to 4 MiB', async () => {
  const guest = new Guest({ transport: await connect(), alive });
  const lines = Array.from({ length: 700_000 }, (_, i) => `${i + 1}\n`).join('');
  const text = await guest.text('seq 700000');
  expect(text.length).toBe(4 * 1024 * 1024);
  expect(sha256(Buffer.from(text))).toBe(sha256(Buffer.from(lines.slice(0, text.length))));
});
