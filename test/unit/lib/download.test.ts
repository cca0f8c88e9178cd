import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Event } from '../../../src/model/events.js';
import { DigestMismatch, download as fetchFile, fetchSmall } from '../../../src/lib/download.js';
import { proxyFromEnv } from '../../../src/lib/proxy.js';

const BODY = randomBytes(600_000);
const ETAG = '"v1"';
const digest = { algorithm: 'sha512', hex: createHash('sha512').update(BODY).digest('hex') } as const;
const limits = { stallMs: 2000, retries: 3, backoffMs: 5 };

let dir: string;
let to: string;
let server: Server;
let base: string;
let seen: IncomingMessage[];
let events: Event[];
let answer: (req: IncomingMessage, res: ServerResponse, nth: number) => void;

/** What a good server does: whole, or from the asked byte when If-Range still holds. */
function serve(req: IncomingMessage, res: ServerResponse, upTo = BODY.length): void {
  const asked = /^bytes=(\d+)-$/.exec(req.headers.range ?? '');
  const from = asked && (req.headers['if-range'] ?? ETAG) === ETAG ? Number(asked[1]) : 0;
  const range = from > 0 ? { 'content-range': `bytes ${from}-${BODY.length - 1}/${BODY.length}` } : {};
  res.writeHead(from > 0 ? 206 : 200, { etag: ETAG, 'content-length': BODY.length - from, ...range });
  if (upTo >= BODY.length) res.end(BODY.subarray(from));
  else res.write(BODY.subarray(from, upTo), () => setTimeout(() => res.destroy(), 30));
}

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'download-'));
  to = join(dir, 'image.qcow2');
  seen = [];
  events = [];
  answer = (req, res) => serve(req, res);
  server = createServer((req, res) => answer(req, res, seen.push(req)));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(dir, { recursive: true });
});

const emit = (event: Event): void => void events.push(event);
function download(more: Partial<Parameters<typeof fetchFile>[0]> = {}): Promise<void> {
  return fetchFile({ url: `${base}/image.qcow2`, digest, to, emit, proxy: '', limits, ...more });
}
async function parts(): Promise<string[]> {
  return (await readdir(dir)).filter((name) => name.includes('.part'));
}

describe('download', () => {
  it('brings the file whole, reports progress and leaves no part', async () => {
    await download({ mode: 0o444 });
    expect((await readFile(to)).equals(BODY)).toBe(true);
    expect((await stat(to)).mode & 0o777).toBe(0o444);
    expect(await parts()).toEqual([]);
    expect(events.filter((e) => e.type === 'progress').at(-1)).toMatchObject({
      done: BODY.length,
      total: BODY.length,
    });
    await download();
    expect(seen).toHaveLength(1);
  });

  it('continues a cut connection with Range and If-Range', async () => {
    answer = (req, res, nth) => serve(req, res, nth === 1 ? 300_000 : undefined);
    await download();
    expect(seen).toHaveLength(2);
    expect(seen[0]!.headers.range).toBeUndefined();
    expect(seen[1]!.headers).toMatchObject({
      range: expect.stringMatching(/^bytes=[1-9]\d*-$/) as string,
      'if-range': ETAG,
    });
    expect((await readFile(to)).equals(BODY)).toBe(true);
  });

  it('continues in a later run', async () => {
    answer = (req, res) => serve(req, res, 300_000);
    await expect(download({ limits: { ...limits, retries: 0 } })).rejects.toMatchObject({
      fault: 'transient',
    });
    expect(await parts()).toHaveLength(2);
    answer = (req, res) => serve(req, res);
    await download();
    expect(seen.at(-1)!.headers.range).toMatch(/^bytes=[1-9]\d*-$/);
    expect((await readFile(to)).equals(BODY)).toBe(true);
    expect(await parts()).toEqual([]);
  });

  it('starts over on a server without ranges, and on a changed file', async () => {
    answer = (req, res, nth) => {
      delete req.headers.range;
      serve(req, res, nth === 1 ? 300_000 : undefined);
    };
    await download();
    expect(seen).toHaveLength(2);
    expect((await readFile(to)).equals(BODY)).toBe(true);
  });

  it('does not join ranges it did not ask for', async () => {
    answer = (req, res, nth) => {
      if (nth !== 2) return serve(req, res, nth === 1 ? 300_000 : undefined);
      res
        .writeHead(206, { 'content-range': `bytes 7-${BODY.length - 1}/${BODY.length}`, etag: ETAG })
        .end(BODY.subarray(7));
    };
    await download();
    expect(seen).toHaveLength(3);
    expect(seen[2]!.headers.range).toBeUndefined();
    expect((await readFile(to)).equals(BODY)).toBe(true);
  });

  it('starts over once when the kept part is damaged', async () => {
    answer = (req, res) => serve(req, res, 300_000);
    await download({ limits: { ...limits, retries: 0 } }).catch(() => undefined);
    const part = join(
      dir,
      (await parts()).find((n) => n.endsWith('.part'))!,
    );
    const bytes = await readFile(part);
    bytes[10]! ^= 1;
    await writeFile(part, bytes);
    answer = (req, res) => serve(req, res);
    await download();
    expect((await readFile(to)).equals(BODY)).toBe(true);
  });

  it('removes a file with the wrong digest and says both', async () => {
    const wrong = { ...digest, hex: 'ab'.repeat(64) };
    const error = await download({ digest: wrong }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(DigestMismatch);
    expect(String(error)).toContain(wrong.hex);
    expect(String(error)).toContain(digest.hex);
    expect(await parts()).toEqual([]);
    await expect(stat(to)).rejects.toThrow('ENOENT');
  });

  it('removes a file that the last look refuses', async () => {
    await expect(download({ accept: () => Promise.reject(new Error('ugly')) })).rejects.toThrow('ugly');
    expect(await parts()).toEqual([]);
    await expect(stat(to)).rejects.toThrow('ENOENT');
  });

  it('follows redirects', async () => {
    answer = (req, res, nth) => {
      if (nth === 1) res.writeHead(302, { location: '/elsewhere/image.qcow2' }).end();
      else serve(req, res);
    };
    await download();
    expect(seen.map((r) => r.url)).toEqual(['/image.qcow2', '/elsewhere/image.qcow2']);
    expect((await readFile(to)).equals(BODY)).toBe(true);
  });

  it('bears a slow server, longer in all than the stall limit', async () => {
    answer = (_req, res) => {
      res.writeHead(200, { 'content-length': BODY.length });
      void (async () => {
        for (let at = 0; at < BODY.length; at += 100_000) {
          res.write(BODY.subarray(at, at + 100_000));
          await sleep(100);
        }
        res.end();
      })();
    };
    await download({ limits: { ...limits, stallMs: 350, retries: 0 } });
    expect((await readFile(to)).equals(BODY)).toBe(true);
  });

  it.each(['before the answer', 'within the body'])('gives up on a server silent %s', async (when) => {
    answer = (_req, res) => {
      if (when !== 'within the body') return;
      res.writeHead(200, { 'content-length': BODY.length });
      res.write(BODY.subarray(0, 1000));
    };
    await expect(download({ limits: { ...limits, stallMs: 100, retries: 0 } })).rejects.toMatchObject({
      fault: 'transient',
      message: expect.stringContaining('silent for 0.1 s') as string,
    });
  });

  it('tries again after a 503, not after a 404', async () => {
    answer = (req, res, nth) => (nth < 3 ? res.writeHead(503).end() : serve(req, res));
    await download();
    expect(seen).toHaveLength(3);
    answer = (_req, res) => void res.writeHead(404).end();
    await expect(download({ to: `${to}2` })).rejects.toMatchObject({ fault: 'not-found' });
    expect(seen).toHaveLength(4);
  });

  it('refuses what does not fit on the disk before it writes', async () => {
    answer = (_req, res) => void res.writeHead(200, { 'content-length': 2 ** 52 }).flushHeaders();
    await expect(download({ limits: { ...limits, maxBytes: Infinity } })).rejects.toMatchObject({
      fault: 'host',
      message: expect.stringContaining('No space left') as string,
    });
  });

  it('stops at once when interrupted and keeps the part', async () => {
    const controller = new AbortController();
    answer = (_req, res) => {
      res.writeHead(200, { 'content-length': BODY.length, etag: ETAG });
      res.write(BODY.subarray(0, 100_000));
      setTimeout(() => controller.abort(), 80);
    };
    await expect(download({ signal: controller.signal })).rejects.toMatchObject({ fault: 'interrupted' });
    expect(await parts()).toHaveLength(2);
  });

  it('joins an undigested file only when the server vouches that it is the same', async () => {
    answer = (req, res, nth) => serve(req, res, nth === 1 ? 300_000 : undefined);
    await download({ digest: undefined });
    expect(seen[1]!.headers.range).toMatch(/^bytes=[1-9]\d*-$/);
    expect((await readFile(to)).equals(BODY)).toBe(true);
    answer = (req, res, nth) => {
      const setHeader = res.writeHead.bind(res);
      res.writeHead = ((code: number, headers: Record<string, string>) =>
        setHeader(code, { ...headers, etag: 'W/"v1"' })) as typeof res.writeHead;
      serve(req, res, nth === 3 ? 300_000 : undefined);
    };
    await download({ digest: undefined });
    expect(seen).toHaveLength(4);
    expect(seen[3]!.headers.range).toBeUndefined();
    expect((await readFile(to)).equals(BODY)).toBe(true);
  });

  it('lets two downloads of one file share the work', async () => {
    await Promise.all([download(), download()]);
    expect(seen).toHaveLength(1);
    expect((await readFile(to)).equals(BODY)).toBe(true);
  });
});

describe('proxies', () => {
  it('asks an http proxy for the absolute URL, with the password in a header only', async () => {
    const proxy = base.replace('http://', 'http://me:secret@');
    await download({ url: 'http://images.invalid/a/image.qcow2', proxy });
    expect(seen[0]!.url).toBe('http://images.invalid/a/image.qcow2');
    expect(seen[0]!.headers).toMatchObject({
      host: 'images.invalid',
      'proxy-authorization': `Basic ${Buffer.from('me:secret').toString('base64')}`,
    });
  });

  it('tunnels https with CONNECT', async () => {
    const asked: string[] = [];
    server.on('connect', (req: IncomingMessage, socket) => {
      asked.push(req.url!);
      socket.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
    });
    await expect(
      fetchSmall('https://images.invalid/S', { emit, proxy: base, limits: { ...limits, retries: 0 } }),
    ).rejects.toMatchObject({ fault: 'transient' });
    expect(asked).toEqual(['images.invalid:443']);
  });

  it('are read from the environment', () => {
    const env = { https_proxy: 'http://s:1', http_proxy: 'http://p:2', no_proxy: 'localhost,.corp.test' };
    expect(proxyFromEnv('https://a.test/x', env)).toBe('http://s:1');
    expect(proxyFromEnv('http://a.test/x', env)).toBe('http://p:2');
    expect(proxyFromEnv('https://m.corp.test/x', env)).toBeUndefined();
    expect(proxyFromEnv('https://a.test/x', {})).toBeUndefined();
  });
});
