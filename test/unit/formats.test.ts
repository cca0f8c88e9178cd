import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { arMembers, makeAr } from '../../src/formats/ar.js';
import { inFile, inMemory, Unreadable, type ByteSource } from '../../src/formats/bytes.js';
import { cpioFiles } from '../../src/formats/cpio.js';
import { readDebHeader } from '../../src/formats/deb.js';
import { elements, valueIn } from '../../src/formats/der.js';
import { parseRpm } from '../../src/formats/rpm.js';
import { readRpmHeader } from '../../src/formats/rpm-header.js';
import { filesTar, tarEntries } from '../../src/formats/tar.js';
import { ar, BINARY, deb, tar } from './deb-fixture.js';

const CONTROL = 'Package: foo\nVersion: 1\nArchitecture: all\n';

describe('ar', () => {
  it('reads back what it makes', async () => {
    const archive = makeAr(
      [
        ['one', Buffer.from('odd')],
        ['two', Buffer.from('even')],
      ],
      1_700_000_000,
    );
    const found: string[] = [];
    for await (const { name, at, size } of arMembers(inMemory(archive))) {
      found.push(`${name}=${archive.toString('latin1', at, at + size)}`);
    }
    expect(found).toEqual(['one=odd', 'two=even']);
  });
});

describe('tar', () => {
  it('reads back what it makes, with all folders', () => {
    const archive = filesTar(
      [{ path: '/a/b/c', mode: 0o640, bytes: Buffer.from('text') }],
      [{ path: '/a/l', target: 'b/c' }],
      0,
    );
    expect([...tarEntries(archive, 100)].map(({ path, type, mode }) => [path, type, mode])).toEqual([
      ['/', 'folder', 0o755],
      ['/a', 'folder', 0o755],
      ['/a/b', 'folder', 0o755],
      ['/a/b/c', 'file', 0o640],
      ['/a/l', 'symlink', 0o777],
    ]);
    expect(() => [...tarEntries(archive, 4)]).toThrow('more than 4 entries');
  });
});

/** An entry of a cpio archive in the new format. */
function cpio(name: string, body: string, { mode = 0o100644, inode = 0, links = 1 } = {}): Buffer {
  const numbers = [inode, mode, 0, 0, links, 0, body.length, 0, 0, 0, 0, name.length + 1, 0];
  const header = `070701${numbers.map((each) => each.toString(16).padStart(8, '0')).join('')}`;
  const four = (text: string): string => text.padEnd(Math.ceil(text.length / 4) * 4, '\0');
  return Buffer.from(four(`${header}${name}\0`) + four(body), 'latin1');
}

const TRAILER = cpio('TRAILER!!!', '');

describe('cpio', () => {
  it('has files, links and devices; of hard links the last has the bytes', () => {
    const files = cpioFiles(
      Buffer.concat([
        cpio('./usr', '', { mode: 0o040755 }),
        cpio('./usr/a', '', { inode: 7, links: 2 }),
        cpio('./usr/b', 'both', { inode: 7, links: 2 }),
        cpio('./usr/l', 'a', { mode: 0o120777 }),
        cpio('./dev/x', '', { mode: 0o020600 }),
        TRAILER,
      ]),
      10,
    );
    expect(files.map((each) => [each.path, each.type, each.size, each.target, String(each.bytes())])).toEqual(
      [
        ['/usr/a', 'file', 4, undefined, 'both'],
        ['/usr/b', 'file', 4, undefined, 'both'],
        ['/usr/l', 'symlink', 0, 'a', ''],
        ['/dev/x', 'special', 0, undefined, ''],
      ],
    );
  });

  it.each([
    ['there twice', Buffer.concat([cpio('./a', 'x'), cpio('a', 'y'), TRAILER])],
    ['a path that', Buffer.concat([cpio('../a', 'x'), TRAILER])],
    ['cut off', cpio('./a', 'long enough').subarray(0, -4)],
    ['damaged', Buffer.from('070707 of another kind')],
  ])('%s', (why, bytes) => expect(() => cpioFiles(bytes, 10)).toThrow(why));
});

const TYPES: Partial<Record<string, number>> = { number: 4, string: 6, object: 8 };

/** A header of an .rpm: numbers of 32 bits, texts, and arrays of texts by their tags. */
function tags(values: Record<number, number | string | string[]>): Buffer {
  const index: Buffer[] = [];
  let store = Buffer.alloc(0);
  for (const [tag, value] of Object.entries(values)) {
    const bytes = Buffer.alloc(typeof value === 'number' ? 4 : 0);
    if (typeof value === 'number') {
      bytes.writeUInt32BE(value);
      store = Buffer.concat([store, Buffer.alloc((4 - (store.length % 4)) % 4)]);
    }
    const entry = Buffer.alloc(16);
    [Number(tag), TYPES[typeof value] ?? 0, store.length, Array.isArray(value) ? value.length : 1].forEach(
      (each, at) => entry.writeUInt32BE(each, at * 4),
    );
    index.push(entry);
    const text =
      typeof value === 'number'
        ? ''
        : [value]
            .flat()
            .map((each) => `${each}\0`)
            .join('');
    store = Buffer.concat([store, bytes, Buffer.from(text)]);
  }
  const intro = Buffer.alloc(16);
  [0x8eade801, 0, index.length, store.length].forEach((each, at) => intro.writeUInt32BE(each, at * 4));
  return Buffer.concat([intro, ...index, store]);
}

function rpm(payload: Buffer, more: Record<number, number | string | string[]> = {}): Buffer {
  const lead = Buffer.alloc(96);
  lead.writeUInt32BE(0xedabeedb);
  const main = tags({
    ...{ 1000: 'kmod-foo', 1001: '1.0', 1002: '2', 1003: 3, 1022: 'x86_64', 1044: 'foo.src.rpm' },
    ...{ 1049: ['kernel-uname-r', 'bar'], 1050: ['5.14-1', ''], 1124: 'cpio', 1125: 'gzip' },
    ...more,
  });
  const signature = tags({ 1000: main.length + payload.length });
  const padding = Buffer.alloc((8 - (signature.length % 8)) % 8);
  return Buffer.concat([lead, signature, padding, main, payload]);
}

describe('rpm', () => {
  const payload = gzipSync(Buffer.concat([cpio('./etc/x', 'text'), TRAILER]));

  it('is read with its files', async () => {
    const { header, files } = await parseRpm(rpm(payload), 'x.rpm');
    expect(header).toMatchObject({
      name: 'kmod-foo',
      epoch: '3',
      version: '1.0',
      release: '2',
      arch: 'x86_64',
    });
    expect(header.relations.requires.map(({ name }) => name)).toEqual(['kernel-uname-r', 'bar']);
    expect(files.map((each) => [each.path, String(each.bytes())])).toEqual([['/etc/x', 'text']]);
  });

  it.each<[string, Buffer]>([
    ['cut off', rpm(payload).subarray(0, -1)],
    ['longer than it says', Buffer.concat([rpm(payload), Buffer.from('x')])],
    ['not an RPM package', Buffer.alloc(200)],
    ['an empty file', Buffer.alloc(0)],
    ['without name or version', rpm(payload, { 1000: '' })],
    ['its payload is cpio with bzip2', rpm(payload, { 1125: 'bzip2' })],
  ])('%s', async (why, bytes) => {
    await expect(parseRpm(bytes, 'x.rpm')).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringMatching(`^x\\.rpm is not a readable RPM package: .*${why}`) as string,
    });
  });
});

describe('the headers alone', () => {
  it('are the same from a file as from memory', async () => {
    const tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
    try {
      const both = async <T>(bytes: Buffer, read: (source: ByteSource) => Promise<T>): Promise<T> => {
        writeFileSync(join(tmp, 'file'), bytes);
        await using file = await open(join(tmp, 'file'));
        const found = await read(inFile(file, bytes.length));
        expect(await read(inMemory(bytes))).toEqual(found);
        return found;
      };
      expect(await both(deb(tar(), CONTROL), readDebHeader)).toMatchObject({ name: 'foo', version: '1' });
      expect(await both(rpm(Buffer.alloc(0)), readRpmHeader)).toMatchObject({ name: 'kmod-foo' });
    } finally {
      rmSync(tmp, { recursive: true });
    }
  });

  it('do not ask for the data to be readable, only to be there', async () => {
    const control: [string, Buffer] = ['control.tar', tar({ name: './control', body: CONTROL })];
    const odd = ar(BINARY, control, ['data.tar.lzma', Buffer.from('?')]);
    expect((await readDebHeader(inMemory(odd))).architecture).toBe('all');
    await expect(readDebHeader(inMemory(ar(BINARY, control)))).rejects.toThrow('data.tar is missing');
  });

  it('take pax headers beside the control file, and no second control file', async () => {
    const made = (...entries: Parameters<typeof tar>): Buffer =>
      ar(BINARY, ['control.tar', tar(...entries)], ['data.tar', tar()]);
    const file = { name: './control', body: CONTROL };
    const pax = { name: './PaxHeaders/control', type: 'x', body: '20 mtime=1700000000.5\n' };
    expect((await readDebHeader(inMemory(made(pax, file)))).name).toBe('foo');
    await expect(readDebHeader(inMemory(made(file, file)))).rejects.toThrow('/control is there twice');
  });
});

it('DER is read strictly', () => {
  expect(valueIn(Buffer.from('0402abcd', 'hex'), 0x04).toString('hex')).toBe('abcd');
  expect(elements(Buffer.from('020101020102', 'hex')).map(({ value }) => value[0])).toEqual([1, 2]);
  for (const bad of ['0403abcd', '04', '0480abcd0000', '0485010000000000']) {
    expect(() => elements(Buffer.from(bad, 'hex')), bad).toThrow(Unreadable);
  }
  expect(() => valueIn(Buffer.from('020101', 'hex'), 0x30)).toThrow(Unreadable);
});
