import type { FileHandle } from 'node:fs/promises';
import { Dkms2binError } from '../model/errors.js';
import { decompress, type Compression } from './decompress.js';
import { readAt, Unreadable } from './package-file.js';

export interface DebHeader {
  name: string;
  version: string;
  architecture: string;
  /** The fields of the control file as they stand there, byte by byte (latin1), each with its continuation lines. */
  fields: { key: string; text: string }[];
}

// Real control archives are some KiB; those of packages with very many files reach a few MiB.
const MAX_PACKED_BYTES = 16 << 20;
const MAX_UNPACKED_BYTES = 64 << 20;

/** Reads what a .deb says about itself (deb(5)) and that it is whole. Throws Unreadable for anything else. */
export async function readDeb(file: FileHandle, size: number): Promise<DebHeader> {
  const members = await arMembers(file, size);
  const first = members[0];
  const format =
    first?.name === 'debian-binary' ? await readAt(file, first.at, Math.min(first.size, 16)) : null;
  if (!format?.toString('latin1').startsWith('2.')) throw new Unreadable('not a Debian package');
  const control = members.find((each) => /^control\.tar(\.|$)/.test(each.name));
  if (!control || !members.some((each) => /^data\.tar(\.|$)/.test(each.name))) {
    throw new Unreadable('a Debian package without its control or data part, probably cut off');
  }
  if (control.size > MAX_PACKED_BYTES) throw new Unreadable('its control part is too large');
  const tar = await unpack(control.name, await readAt(file, control.at, control.size));
  return parseControl(controlFile(tar));
}

interface Member {
  name: string;
  at: number;
  size: number;
}

async function arMembers(file: FileHandle, size: number): Promise<Member[]> {
  if (size < 8 || (await readAt(file, 0, 8)).toString('latin1') !== '!<arch>\n') {
    throw new Unreadable(size === 0 ? 'an empty file' : 'not a Debian package');
  }
  const members: Member[] = [];
  for (let at = 8; at < size;) {
    if (size - at < 60) throw new Unreadable('cut off');
    const header = (await readAt(file, at, 60)).toString('latin1');
    const length = /^\d+ *$/.test(header.slice(48, 58)) ? Number(header.slice(48, 58)) : NaN;
    if (header.slice(58) !== '`\n' || Number.isNaN(length)) throw new Unreadable('damaged');
    if (length > size - at - 60) throw new Unreadable('cut off');
    members.push({ name: header.slice(0, 16).trimEnd().replace(/\/$/, ''), at: at + 60, size: length });
    at += 60 + length + (length % 2);
    // A well-formed package has three, dpkg allows a few private ones.
    if (members.length > 32) throw new Unreadable('damaged');
  }
  return members;
}

async function unpack(name: string, bytes: Buffer): Promise<Buffer> {
  const compression = CONTROL[name];
  if (!compression) throw new Unreadable(`its control part is packed in an unknown way (${name})`);
  try {
    return await decompress(bytes, compression, MAX_UNPACKED_BYTES, 'its control part');
  } catch (error) {
    // A missing tool is the host's fault, not the package's.
    if (!(error instanceof Dkms2binError) || error.fault !== 'usage') throw error;
    throw new Unreadable('its control part is damaged', { cause: error });
  }
}

const CONTROL: Record<string, Compression> = {
  'control.tar': 'none',
  'control.tar.gz': 'gzip',
  'control.tar.xz': 'xz',
  'control.tar.zst': 'zstd',
};

/** The text of ./control in a tar archive. */
function controlFile(tar: Buffer): string {
  for (let at = 0; at + 512 <= tar.length;) {
    const header = tar.subarray(at, at + 512);
    if (header.every((byte) => byte === 0)) break;
    const field = (from: number, to: number): string =>
      header.toString('latin1', from, to).replace(/\0[^]*$/, '');
    const octal = field(124, 136).trim();
    const length = /^[0-7]+$/.test(octal) ? parseInt(octal, 8) : NaN;
    if (Number.isNaN(length) || at + 512 + length > tar.length) break;
    if (/^(\.\/)?control$/.test(field(0, 100)) && /^[0\0]$/.test(header.toString('latin1', 156, 157))) {
      return tar.toString('latin1', at + 512, at + 512 + length);
    }
    at += 512 + Math.ceil(length / 512) * 512;
  }
  throw new Unreadable('no control file in it');
}

/** Exported for tests. A stanza goes into Packages as it is, so nothing may end it early or start a field of its own. */
export function parseControl(text: string): DebHeader {
  const bad = (why: string): Unreadable => new Unreadable(`its control file is not usable: ${why}`);
  if (/[\x00-\x08\x0b-\x1f\x7f]/.test(text)) throw bad('control characters');
  const fields: DebHeader['fields'] = [];
  for (const line of text.replace(/^\n+|\s+$/g, '').split('\n')) {
    const last = fields.at(-1);
    const key = /^([A-Za-z0-9][\x21-\x39\x3b-\x7e]*)[ \t]*:/.exec(line)?.[1];
    if (line.trim() === '') throw bad('an empty line');
    if (/^[ \t]/.test(line) && last) last.text += `\n${line.trimEnd()}`;
    else if (key === undefined) throw bad('a line without a field name');
    else if (fields.some((each) => each.key === key.toLowerCase())) throw bad(`${key} twice`);
    else fields.push({ key: key.toLowerCase(), text: line.trimEnd() });
  }
  const value = (key: string, shape: RegExp): string => {
    const found = fields.find((each) => each.key === key)?.text.replace(/^[^:]*:\s*/, '');
    if (found === undefined || !shape.test(found)) throw bad(`no valid ${key}`);
    return found;
  };
  return {
    name: value('package', /^[A-Za-z0-9][A-Za-z0-9+.-]+$/),
    version: value('version', /^(\d+:)?[A-Za-z0-9.+~-]+$/),
    architecture: value('architecture', /^[a-z0-9][a-z0-9-]*$/),
    fields,
  };
}
