import { basename } from 'node:path';
import { compressionOf, decompress } from '../formats/decompress.js';
import { Dkms2binError } from '../model/errors.js';
import { plain } from '../lib/text.js';
import { MAX_DEBUG_BYTES } from './debug-symbols.js';
import { readSections, type ElfSection } from '../formats/elf.js';
import { parseDeb, type Deb } from '../formats/deb.js';
import type { PackageEntry } from '../formats/package.js';

/**
 * In words, what differs first between two builds of a package: a control field, a file, in a module the section and the
 * place in it. Null when they are the same to the byte. Texts are stripped of control bytes.
 */
export async function firstDifference(a: Buffer, b: Buffer, name: string): Promise<string | null> {
  if (a.equals(b)) return null;
  const [first, second] = await Promise.all([parseDeb(a, name), parseDeb(b, name)]);
  return (
    (await filesDifference(first, second)) ??
    controlDifference(first, second) ??
    `${name} differs in how it is packed, first ${bytesDifference(a, b)}`
  );
}

async function filesDifference(a: Deb, b: Deb): Promise<string | null> {
  const others = new Map(b.files.map((file) => [file.path, file]));
  // A file of debug symbols is called by its content: what lies on either side alone says less than what differs in both.
  for (const file of a.files) {
    const other = others.get(file.path);
    const found = other && (await fileDifference(file, other));
    if (found) return found;
  }
  for (const [deb, than, which] of [
    [a, b, 'first'],
    [b, a, 'second'],
  ] as const) {
    const alone = deb.files.find(({ path }) => !than.files.some((file) => file.path === path));
    if (alone) return `only the ${which} has ${alone.path}`;
  }
  return null;
}

async function fileDifference(a: PackageEntry, b: PackageEntry): Promise<string | null> {
  if (a.type !== b.type) return `${a.path} is a ${a.type} / a ${b.type}`;
  if (a.mode !== b.mode) return `${a.path} has the mode ${a.mode.toString(8)} / ${b.mode.toString(8)}`;
  if (a.target !== b.target) return `${a.path} points to ${plain(a.target ?? '')} / ${plain(b.target ?? '')}`;
  const [one, two] = [a.bytes(), b.bytes()];
  if (one.equals(two)) return null;
  const name = basename(a.path);
  return (await moduleDifference(name, one, two)) ?? `${a.path} differs first ${bytesDifference(one, two)}`;
}

/** Null when the two are not ELF files that can be read, compressed or not. */
async function moduleDifference(name: string, a: Buffer, b: Buffer): Promise<string | null> {
  try {
    const unpack = (bytes: Buffer): Promise<Buffer> =>
      decompress(bytes, compressionOf(bytes), MAX_DEBUG_BYTES, name);
    const [one, two] = await Promise.all([unpack(a), unpack(b)]);
    if (one.equals(two)) return `${name} is compressed differently, first ${bytesDifference(a, b)}`;
    return (
      sectionDifference(name, readSections(one), readSections(two)) ??
      `${name} differs first ${bytesDifference(one, two)}`
    );
  } catch (error) {
    if (error instanceof Dkms2binError && (error.fault === 'module' || error.fault === 'usage')) return null;
    throw error;
  }
}

/** Sections that follow from others are looked at after those: .modinfo has a hash of the source, the rest are tables and a hash. */
function rank(section: string): number {
  if (/^\.(note\.gnu\.build-id|rela?\..*|symtab|strtab|shstrtab)$/.test(section)) return 2;
  return section === '.modinfo' ? 1 : 0;
}

function sectionDifference(name: string, a: ElfSection[], b: ElfSection[]): string | null {
  const [first, second] = [numbered(a), numbered(b)];
  const all = [...new Map([...second, ...first])].map(([key, { name: section }]) => ({ key, section }));
  for (const { key, section: raw } of all.sort((x, y) => rank(x.section) - rank(y.section))) {
    const [one, two] = [first.get(key), second.get(key)];
    const section = plain(raw);
    if (!one || !two) return `only the ${one ? 'first' : 'second'} ${name} has the section ${section}`;
    if (!one.bytes.equals(two.bytes)) {
      return `${name} differs first in section ${section} ${bytesDifference(one.bytes, two.bytes)}`;
    }
  }
  return null;
}

/** The sections by their name and which of that name they are. */
function numbered(sections: readonly ElfSection[]): Map<string, ElfSection> {
  const counts = new Map<string, number>();
  return new Map(
    sections.map((section) => {
      const count = (counts.get(section.name) ?? 0) + 1;
      counts.set(section.name, count);
      return [`${section.name} ${count}`, section];
    }),
  );
}

function controlDifference(a: Deb, b: Deb): string | null {
  for (const field of new Set([...a.control.keys(), ...b.control.keys()])) {
    const [one, two] = [a.control.get(field), b.control.get(field)];
    if (one !== two) return `the control field ${field} is ${quoted(one)} / ${quoted(two)}`;
  }
  return null;
}

const quoted = (text: string | undefined): string =>
  text === undefined ? 'missing' : `'${plain(text.slice(0, MAX_SHOWN)).replace(/\n/g, ' ')}'`;

const MAX_SHOWN = 60;

/** `at 0x12: 'built 10:01' / 'built 12:33'`: around the first byte that differs, text where it is text, else hex. */
function bytesDifference(a: Buffer, b: Buffer): string {
  const end = Math.min(a.length, b.length);
  let at = 0;
  // In blocks first: files have up to 128 MiB.
  const step = 4096;
  while (at < end && a.subarray(at, at + step).equals(b.subarray(at, at + step))) at += step;
  while (at < end && a[at] === b[at]) at++;
  at = Math.min(at, end);
  const where = `at 0x${at.toString(16)}`;
  if (at === end) return `${where}: ${a.length} / ${b.length} bytes`;
  const [one, two] = [textAround(a, at), textAround(b, at)];
  if (one !== null && two !== null) return `${where}: '${one}' / '${two}'`;
  return `${where}: ${a.toString('hex', at, at + 16)} / ${b.toString('hex', at, at + 16)}`;
}

/** The printable text of at least four characters that the byte is in, with a little of what precedes it; null where there is none. */
function textAround(bytes: Buffer, at: number): string | null {
  const printable = (index: number): boolean => {
    const byte = bytes[index] ?? 0;
    return byte >= 0x20 && byte < 0x7f;
  };
  if (!printable(at)) return null;
  let start = at;
  while (start > 0 && at - start < MAX_SHOWN / 2 && printable(start - 1)) start--;
  let end = at;
  while (end < bytes.length && end - start < MAX_SHOWN && printable(end)) end++;
  return end - start < 4 ? null : bytes.toString('latin1', start, end);
}
