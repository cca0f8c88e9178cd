import { expect, test } from 'vitest';
import { closest } from '../../../src/lib/text.js';
import { unknownDistro } from '../../../src/distro/row.js';

test.each([
  ['buidl', ['build', 'bisect'], 'build'],
  ['bord', ['board', 'bisect'], 'board'],
  ['debian12', ['debian-11', 'debian-12'], 'debian-12'],
  ['quite-different', ['build'], undefined],
  // A letter is no misspelt word of one letter.
  ['x', ['y'], undefined],
])('%s means %s', (meant, words, expected) => expect(closest(meant, words)).toBe(expected));

const rows = [
  { id: 'debian-11', aliases: ['bullseye'] },
  { id: 'debian-12', aliases: ['bookworm'] },
  { id: 'rocky-9', aliases: ['rockylinux-9'] },
];

test.each([
  ['debian12', 'Did you mean debian-12?'],
  ['Bookworm', 'Did you mean bookworm?'],
  ['bookwrm', 'Did you mean bookworm?'],
  ['debian-15', 'Known: debian-11, debian-12'],
  ['solaris', 'Known: debian-11, debian-12, rocky-9'],
])('a distro named %s', (name, hint) => expect(unknownDistro(name, rows).hint).toBe(hint));
