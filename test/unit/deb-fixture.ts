/** An ar archive of these members. */
export function ar(...members: [name: string, bytes: Buffer][]): Buffer {
  const parts: Buffer[] = [Buffer.from('!<arch>\n')];
  for (const [name, bytes] of members) {
    const numbers = `${'0'.padEnd(12)}${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}`;
    parts.push(Buffer.from(`${name.padEnd(16)}${numbers}${String(bytes.length).padEnd(10)}\`\n`), bytes);
    if (bytes.length % 2 === 1) parts.push(Buffer.from('\n'));
  }
  return Buffer.concat(parts);
}

interface Raw {
  name: string;
  type?: string;
  body?: string;
  link?: string;
  /** Instead of the body's. */
  size?: string;
}

export function tar(...entries: Raw[]): Buffer {
  const blocks = entries.map(({ name, type = '0', body = '', link = '', size }) => {
    const header = Buffer.alloc(512);
    header.write(name, 0, 100);
    header.write('0000644\0', 100);
    header.write(size ?? `${body.length.toString(8).padStart(11, '0')}\0`, 124, 12, 'latin1');
    header.fill(' ', 148, 156);
    header.write(type, 156);
    header.write(link, 157, 100);
    header.write('ustar  \0', 257, 'latin1');
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    return Buffer.concat([header, Buffer.from(body), Buffer.alloc((512 - (body.length % 512)) % 512)]);
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

export const CONTROL = 'Package: x\nVersion: 1\nArchitecture: all\n';
export const BINARY: [string, Buffer] = ['debian-binary', Buffer.from('2.0\n')];
/** A package of these files. */
export const deb = (data: Buffer, control = CONTROL): Buffer =>
  ar(BINARY, ['control.tar', tar({ name: './control', body: control })], ['data.tar', data]);
