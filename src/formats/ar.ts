import { Unreadable, type ByteSource } from './bytes.js';

export const AR_MAGIC = Buffer.from('!<arch>\n');
const HEADER = 60;

export interface ArMember {
  /** Without the slash that GNU ar ends names with. */
  name: string;
  /** The first byte of its content in the archive. */
  at: number;
  /** Bytes of its content. */
  size: number;
}

/** The members of an ar archive in its order, without their content. Throws Unreadable where it is damaged or cut off. */
export async function* arMembers(source: ByteSource): AsyncGenerator<ArMember> {
  const { size } = source;
  if (size < AR_MAGIC.length) throw new Unreadable('cut off');
  if (!(await source.read(0, AR_MAGIC.length)).equals(AR_MAGIC))
    throw new Unreadable('it is not an ar archive');
  for (let at = AR_MAGIC.length; at < size;) {
    if (size - at < HEADER) throw new Unreadable(`cut off after ${size} bytes`);
    const header = (await source.read(at, HEADER)).toString('latin1');
    const name = header.slice(0, 16).trimEnd().replace(/\/$/, '');
    const digits = header.slice(48, 58).trimEnd();
    if (!header.endsWith('`\n') || !/^\d{1,10}$/.test(digits) || !/^[\x21-\x7e]+$/.test(name)) {
      throw new Unreadable(`a damaged ar header at byte ${at}`);
    }
    const member = { name, at: at + HEADER, size: Number(digits) };
    at = member.at + even(member.size);
    // The padding byte belongs to the member: without it the file is cut off, too.
    if (at > size) throw new Unreadable(`${name} is cut off after ${size} bytes`);
    yield member;
  }
}

/** An ar archive of these members, all of one time (seconds since 1970), root's and with mode 0644. */
export function makeAr(members: readonly (readonly [name: string, bytes: Buffer])[], mtime: number): Buffer {
  const parts: Buffer[] = [AR_MAGIC];
  for (const [name, bytes] of members) {
    const owner = `${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}`;
    const header = `${name.padEnd(16)}${String(mtime).padEnd(12)}${owner}${String(bytes.length).padEnd(10)}\`\n`;
    parts.push(Buffer.from(header), bytes);
    if (bytes.length % 2 === 1) parts.push(Buffer.from('\n'));
  }
  return Buffer.concat(parts);
}

const even = (size: number): number => size + (size % 2);
