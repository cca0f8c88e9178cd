import { describe, expect, test } from 'vitest';
import {
  paragraphsWith,
  parseParagraph,
  parseParagraphs,
  parseReleaseFile,
} from '../../src/formats/deb822.js';

describe('a paragraph', () => {
  const text = 'Package: a\nDepends:  b,\n c (>= 1)\nDescription: one\n .\n   two  \n';

  test('has values by name in any case, with their continuation lines', () => {
    const paragraph = parseParagraph(text);
    expect(paragraph.get('package')).toBe('a');
    expect(paragraph.get('Depends')).toBe('b,\nc (>= 1)');
    expect(paragraph.get('Description')).toBe('one\n.\n  two');
    expect(paragraph.get('Version')).toBeUndefined();
    expect(paragraph.fields.map((field) => field.text).join('\n')).toBe(text.replace(/ +$/gm, '').trimEnd());
  });

  test('may be searched although it is not in order, and refused for it', () => {
    const refuse = (why: string): Error => new Error(why);
    const twice = 'Package: a\nPACKAGE: b\n';
    expect(parseParagraph(twice).get('Package')).toBe('a');
    expect(() => parseParagraph(twice, refuse)).toThrow('PACKAGE twice');
    expect(parseParagraph(' x\nPackage: a\nnonsense\n').get('Package')).toBe('a');
    expect(() => parseParagraph('Package: a\nnonsense\n', refuse)).toThrow('a line is not a field');
    expect(() => parseParagraph('Package: a\n\nVersion: 1\n', refuse)).toThrow('an empty line');
    expect(parseParagraph(text, refuse).fields).toHaveLength(3);
  });
});

test('a file has paragraphs between blank lines, and comments', () => {
  const found = parseParagraphs('# none\n\nTypes: deb\n# in between\nURIs: u\n \n\n\nTypes: deb-src\n');
  expect(found.map((each) => each.fields.map(({ value }) => value))).toEqual([['deb', 'u'], ['deb-src']]);
  expect(parseParagraphs('\n\n')).toEqual([]);
});

test('paragraphs are found by what stands in them, each once, the first and the last too', () => {
  const bytes = Buffer.from('Package: dkms\nDepends: dkms\n\nPackage: b\n\nPackage: c\nSuggests: dkms');
  const names = [...paragraphsWith(bytes, 'dkms')].map((each) => each.get('Package'));
  expect(names).toEqual(['dkms', 'c']);
  expect([...paragraphsWith(bytes, 'none')]).toEqual([]);
});

describe('a Release', () => {
  const sha256 = 'a'.repeat(64);
  const body = [
    'Date: Thu, 01 Jan 1970 00:01:40 UTC',
    'Acquire-By-Hash: yes',
    'MD5Sum:',
    ` ${'b'.repeat(32)} 12 main/Packages`,
    'SHA256:',
    ` ${sha256} 12 main/Packages`,
    ` ${sha256} -1 main/bad`,
    ` nonsense 12 main/worse`,
  ].join('\n');

  test('tells its date and the digests of its files', () => {
    const release = parseReleaseFile(`${body}\n`);
    expect(release).toMatchObject({ date: 100, byHash: true });
    expect([...release.files]).toEqual([['main/Packages', { sha256, size: 12 }]]);
  });

  test('may stand in the armour of an InRelease, whose own lines do not count', () => {
    const armoured =
      `-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA512\r\n\r\n${body.replaceAll('\n', '\r\n')}\r\n` +
      '-----BEGIN PGP SIGNATURE-----\r\n\r\nDate: never\r\n-----END PGP SIGNATURE-----\r\n';
    expect(parseReleaseFile(armoured)).toEqual(parseReleaseFile(body));
  });

  test('without a valid date has none', () => {
    expect(parseReleaseFile('Date: soon\n')).toEqual({ date: undefined, byHash: false, files: new Map() });
  });
});
