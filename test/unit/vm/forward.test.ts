import { createServer, type Server } from 'node:http';
import { connect, createServer as createSocketServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { forwardTo } from '../../../src/vm/forward.js';
import { tempFolder } from '../fixtures/repository.js';

let tmp: ReturnType<typeof tempFolder>;
beforeEach(() => (tmp = tempFolder()));
afterEach(() => tmp.remove());

test('one stream carries one HTTP connection after the other, also after the server hung up', async () => {
  const big = Buffer.alloc(3_000_000, 'x');
  const server: Server = createServer((request, response) => {
    response.end(request.url === '/big' ? big : request.url);
  });
  server.keepAliveTimeout = 50;
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  // QEMU's end: all of a guest's connections are one stream.
  const path = join(tmp.path, 'forward');
  const qemu = createSocketServer();
  const stream = new Promise<Socket>((done) => qemu.once('connection', done));
  await new Promise<void>((done) => qemu.listen(path, done));
  const forward = forwardTo((server.address() as AddressInfo).port, path);
  const guest = await stream;
  const get = async (target: string, more = ''): Promise<string> => {
    guest.write(`GET ${target} HTTP/1.1\r\nHost: x\r\n${more}\r\n`);
    let text = '';
    for (;;) {
      const [head, body] = text.split('\r\n\r\n', 2);
      const length = /content-length: (\d+)/i.exec(head ?? '')?.[1];
      if (body !== undefined && body.length >= Number(length)) return body;
      text += String(await new Promise<Buffer>((done) => guest.once('data', done)));
    }
  };
  try {
    expect(await get('/a')).toBe('/a');
    expect((await get('/big')).length).toBe(big.length);
    expect(await get('/b', 'Connection: close\r\n')).toBe('/b');
    await new Promise((done) => setTimeout(done, 150));
    expect(await get('/c')).toBe('/c');
    const closed = new Promise((done) => guest.once('close', done));
    forward[Symbol.dispose]();
    await closed;
  } finally {
    guest.destroy();
    qemu.close();
    server.closeAllConnections();
    server.close();
  }
  await expect(
    new Promise((done, fail) => connect(path).once('connect', done).once('error', fail)),
  ).rejects.toThrow();
});
