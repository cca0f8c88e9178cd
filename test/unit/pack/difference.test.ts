import { gzipSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { makeDeb } from '../../../src/pack/deb.js';
import { firstDifference } from '../../../src/pack/difference.js';
import { elf, modinfo } from '../fixtures/elf.js';

const PATH = '/lib/modules/6.1.0-56-amd64/updates/dkms/foo.ko';
const MODINFO = modinfo({ vermagic: '6.1.0-56-amd64 ' });

type Files = Record<string, Buffer>;
const deb = (
  files: Files,
  {
    version = '1.0',
    mode = 0o644,
    links = {},
  }: { version?: string; mode?: number; links?: Record<string, string> } = {},
): Buffer =>
  makeDeb({
    control: {
      package: 'foo-modules-x',
      version,
      architecture: 'amd64',
      maintainer: 'a b <a@b>',
      section: 'kernel',
      priority: 'optional',
      description: { synopsis: 'foo', lines: [] },
    },
    files: Object.entries(files).map(([path, bytes]) => ({ path, mode, bytes })),
    links: Object.entries(links).map(([path, target]) => ({ path, target })),
    scripts: {},
    mtime: 1_700_000_000,
  });

const strings = (text: string, more: [string, Buffer][] = []): Buffer =>
  elf([['.modinfo', MODINFO], ['.rodata.str1.1', Buffer.from(`twelve bytes${text}\0`)], ...more]);

it('is null for the same bytes', async () => {
  const one = deb({ [PATH]: strings('built 10:01') });
  expect(await firstDifference(one, Buffer.from(one), 'foo.deb')).toBeNull();
});

it('names the section, the place and the text, packed or not', async () => {
  const said =
    "foo.ko differs first in section .rodata.str1.1 at 0x12: 'twelve bytesbuilt 10:01' / 'twelve bytesbuilt 22:01'";
  const [one, two] = [strings('built 10:01'), strings('built 22:01')];
  expect(await firstDifference(deb({ [PATH]: one }), deb({ [PATH]: two }), 'foo.deb')).toBe(said);
  const packed = [one, two].map((ko) => deb({ [`${PATH}.gz`]: gzipSync(ko) })) as [Buffer, Buffer];
  expect(await firstDifference(...packed, 'foo.deb')).toBe(said.replace('foo.ko', 'foo.ko.gz'));
});

it('names what differs by itself before what follows from it', async () => {
  const make = (byte: number): Buffer =>
    elf([
      ['.note.gnu.build-id', Buffer.alloc(8, byte)],
      ['.modinfo', Buffer.concat([MODINFO, Buffer.from(`srcversion=${byte}\0`)])],
      ['.data', Buffer.from([1, 2, byte])],
    ]);
  const said = await firstDifference(deb({ [PATH]: make(7) }), deb({ [PATH]: make(9) }), 'foo.deb');
  expect(said).toBe('foo.ko differs first in section .data at 0x2: 07 / 09');
});

it.each<[string, Buffer, Buffer, RegExp]>([
  [
    'a longer section',
    deb({ [PATH]: strings('a') }),
    deb({ [PATH]: strings('a\0b') }),
    /str1\.1 at 0xe: 14 \/ 16 bytes$/,
  ],
  [
    'a section more',
    deb({ [PATH]: strings('a', [['.text', Buffer.from('x')]]) }),
    deb({ [PATH]: strings('a') }),
    /^only the first foo\.ko has the section \.text$/,
  ],
  [
    'what is after the sections',
    deb({ [PATH]: Buffer.concat([strings('a'), Buffer.from('signature 1')]) }),
    deb({ [PATH]: Buffer.concat([strings('a'), Buffer.from('signature 2')]) }),
    /^foo\.ko differs first at 0x[0-9a-f]+: 'signature 1' \/ 'signature 2'$/,
  ],
  ['a file more', deb({}), deb({ '/etc/x': Buffer.from('x') }), /^only the second has \/etc\/x$/],
  [
    'a text file',
    deb({ '/etc/x': Buffer.from('made 1') }),
    deb({ '/etc/x': Buffer.from('made 2') }),
    /^\/etc\/x differs first at 0x5: 'made 1'/,
  ],
  [
    'a mode',
    deb({ '/etc/x': Buffer.from('') }),
    deb({ '/etc/x': Buffer.from('') }, { mode: 0o755 }),
    /mode 644 \/ 755$/,
  ],
  ['a link', deb({}, { links: { '/a': 'b' } }), deb({}, { links: { '/a': 'c' } }), /^\/a points to b \/ c$/],
  [
    'a control field',
    deb({}),
    deb({}, { version: '1.1' }),
    /^the control field Version is '1\.0' \/ '1\.1'$/,
  ],
])('tells %s', async (_what, one, two, said) => {
  expect(await firstDifference(one, two, 'foo.deb')).toMatch(said);
});

it('shows no control bytes of a guest', async () => {
  const [one, two] = ['\x1b[31m', '\x1b[32m'].map((text) =>
    deb({ [PATH]: elf([[`.${text}`, Buffer.from('x')]]) }),
  );
  const said = await firstDifference(one!, two!, 'foo.deb');
  expect(said).toMatch(/^only the/);
  expect(said).not.toContain('\x1b');
});
