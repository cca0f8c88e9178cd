import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { Dkms2binError } from '../../../src/model/errors.js';
import { frameJson, FrameReader, type FrameLimits } from '../../../src/guest/frames.js';

const KINDS = ['meta', 'module', 'log'];
const BLOBS: [string, Buffer][] = [
  ['meta', Buffer.from('{"name":"../../etc/passwd"}')],
  ['module', Buffer.from([0, 1, 2, 10, 13, 255, 10])],
  ['log', Buffer.alloc(0)],
  ['module', Buffer.from('DKMS2BIN1 end 0 0\n')],
];

function stream(blobs: [string, Buffer][], digest?: string): Buffer {
  const hash = createHash('sha256');
  const parts = blobs.map(([kind, bytes], index) => {
    hash.update(bytes);
    return Buffer.concat([Buffer.from(`DKMS2BIN1 ${kind} ${index} ${bytes.length}\n`), bytes]);
  });
  return Buffer.concat([...parts, Buffer.from(`DKMS2BIN1 end ${digest ?? hash.digest('hex')} 0\n`)]);
}

function chunks(bytes: Buffer, size: number): Readable {
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += size) parts.push(bytes.subarray(at, at + size));
  return Readable.from(parts);
}

const read = (bytes: Buffer, size = 7, limits: Partial<FrameLimits> = {}) =>
  new FrameReader(chunks(bytes, size), { kinds: KINDS, limits }).all();

async function fault(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(Dkms2binError);
  return (error as Dkms2binError).fault;
}

describe('FrameReader', () => {
  it('gives the blobs back whatever the chunk boundaries', async () => {
    const bytes = stream(BLOBS);
    for (let size = 1; size <= bytes.length; size++) {
      const frames = await read(bytes, size);
      expect(frames.map((frame) => [frame.kind, frame.bytes])).toEqual(BLOBS);
      expect(frames.map((frame) => frame.index)).toEqual([0, 1, 2, 3]);
    }
    expect(await read(stream([]))).toEqual([]);
  });

  it('refuses a stream cut anywhere', async () => {
    const bytes = stream(BLOBS);
    for (let length = 0; length < bytes.length; length++) {
      expect(await fault(read(bytes.subarray(0, length)))).toBe('transient');
    }
  });

  it('refuses a stream with any one byte changed', async () => {
    const bytes = stream(BLOBS);
    for (let at = 0; at < bytes.length; at++) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 0x5a;
      expect(['transient', 'module']).toContain(await fault(read(changed)));
    }
  });

  it.each([
    ['a foreign magic', 'DKMS2BIN2 meta 0 1\nx'],
    ['an unknown kind', 'DKMS2BIN1 shell 0 1\nx'],
    ['a wrong index', 'DKMS2BIN1 meta 1 1\nx'],
    ['a negative size', 'DKMS2BIN1 meta 0 -1\nx'],
    ['a hexadecimal size', 'DKMS2BIN1 meta 0 0x1\nx'],
    ['a carriage return', 'DKMS2BIN1 meta 0 1\r\nx'],
    ['a shell banner', 'Welcome to Debian\n'],
    ['an endless header', 'D'.repeat(100_000)],
    ['a wrong digest', stream(BLOBS, '0'.repeat(64)).toString('latin1')],
  ])('refuses %s', async (_name, text) => {
    expect(await fault(read(Buffer.from(text, 'latin1')))).toBe('transient');
  });

  it('holds to its limits before it reads the bytes', async () => {
    expect(await fault(read(stream(BLOBS), 7, { count: 3 }))).toBe('module');
    expect(await fault(read(stream(BLOBS), 7, { total: 30 }))).toBe('module');
    expect(await fault(read(Buffer.from('DKMS2BIN1 module 0 999999999999\n')))).toBe('module');
    expect(await read(stream(BLOBS), 7, { count: 4 })).toHaveLength(4);
  });

  it('ends at the last line on a channel that stays open', async () => {
    const channel = new Readable({ read: () => undefined });
    channel.push(stream(BLOBS));
    expect(await new FrameReader(channel, { kinds: KINDS }).all()).toHaveLength(4);
    expect(channel.destroyed).toBe(false);
    channel.destroy();
  });

  it('reports a broken connection', async () => {
    const channel = new Readable({ read: () => undefined });
    const result = fault(new FrameReader(channel, { kinds: KINDS }).all());
    channel.destroy(new Error('reset'));
    expect(await result).toBe('transient');
  });
});

describe('frameJson', () => {
  const schema = z.strictObject({ modules: z.array(z.string()) });
  const frame = (text: string | Buffer) => ({ kind: 'meta', index: 0, bytes: Buffer.from(text) });

  it('reads what the schema knows', () => {
    expect(frameJson(frame('{"modules":["a.ko"]}'), schema)).toEqual({ modules: ['a.ko'] });
  });

  it.each([
    'nonsense',
    '{"modules":["a"],"more":1}',
    '{"modules":[1]}',
    '['.repeat(500_000),
    Buffer.from([0x22, 0xff, 0x22]),
    `"${' '.repeat(2 ** 20)}"`,
  ])('refuses anything else', (text) => {
    expect(() => frameJson(frame(text), schema)).toThrow(Dkms2binError);
  });
});
