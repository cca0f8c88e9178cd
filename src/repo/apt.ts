import { parseReleaseFile } from '../formats/deb822.js';
import type { DebFile } from './package-files.js';

/** Fields that the index itself sets, or that do not belong in it. */
const OWN = [
  'filename',
  'size',
  'md5sum',
  'sha1',
  'sha256',
  'sha512',
  'status',
  'conffiles',
  'config-version',
];

/** The Packages index (deb822, latin1 as the control files' bytes came) of a flat repository, in the order given. */
export function packagesIndex(packages: readonly DebFile[]): Buffer {
  const stanzas = packages.map(({ header, path, size, sha256 }) => {
    const fields = header.fields.filter(({ key }) => !OWN.includes(key)).map(({ text }) => text);
    return [...fields, `Filename: ./${path}`, `Size: ${size}`, `SHA256: ${sha256}`, ''].join('\n');
  });
  return Buffer.from(stanzas.join('\n'), 'latin1');
}

export interface IndexFile {
  name: string;
  size: number;
  sha256: string;
}

/** The text of Release; `date` in seconds since 1970. */
export function releaseText(input: {
  origin: string;
  architectures: readonly string[];
  date: number;
  files: readonly IndexFile[];
}): string {
  return [
    `Origin: ${input.origin}`,
    `Label: ${input.origin}`,
    `Date: ${new Date(input.date * 1000).toUTCString().replace('GMT', 'UTC')}`,
    'Acquire-By-Hash: yes',
    ...(input.architectures.length > 0 ? [`Architectures: ${input.architectures.join(' ')}`] : []),
    'SHA256:',
    ...input.files.map(({ name, size, sha256 }) => ` ${sha256} ${size} ${name}`),
    '',
  ].join('\n');
}

/** Seconds since 1970 of a Release's Date field, undefined without a valid one. */
export const releaseDate = (release: string): number | undefined => parseReleaseFile(release).date;

/** The digests that a Release or InRelease names. */
export const releaseHashes = (release: string): string[] =>
  [...parseReleaseFile(release).files.values()].map(({ sha256 }) => sha256);
