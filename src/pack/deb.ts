import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { Dkms2binError } from '../model/errors.js';
import { makeAr } from '../formats/ar.js';
import {
  makeTar,
  withFolders,
  type NewEntry,
  type TarFile,
  type TarFolder,
  type TarLink,
} from '../formats/tar.js';

/** Who our packages name as their maintainer. */
export const MAINTAINER = 'dkms2bin <dkms2bin@localhost>';

/** The control field of a metapackage that says what it follows. */
export const FOLLOWS = 'Dkms2bin-Follows';

/** The control field of a package that has a certificate enrolled: its SHA-256. */
export const ENROLS = 'Dkms2bin-Enrols';

export interface ControlFields {
  package: string;
  version: string;
  architecture: string;
  /** `Name <address>`. */
  maintainer: string;
  section: string;
  priority: string;
  /** Each item one relation, alternatives included: `a (>= 1) | b`. */
  preDepends?: readonly string[];
  depends?: readonly string[];
  recommends?: readonly string[];
  suggests?: readonly string[];
  provides?: readonly string[];
  conflicts?: readonly string[];
  replaces?: readonly string[];
  breaks?: readonly string[];
  /** Of a metapackage: what it follows, in words that are read back. */
  follows?: string;
  /** Of a package that has a certificate enrolled: its SHA-256, in hex. */
  enrols?: string;
  /** Marks a package of debug symbols, as Debian's own are: the build ids (hex) that it has files for, possibly none. */
  buildIds?: readonly string[];
  description: {
    synopsis: string;
    /** Lines of the long description, shown as they are; '' is a blank line. */
    lines: readonly string[];
  };
}

export interface DebInput {
  control: ControlFields;
  files: readonly TarFile[];
  links?: readonly TarLink[];
  folders?: readonly TarFolder[];
  /** `config` and `templates` are debconf's. */
  scripts: { preinst?: string; postinst?: string; postrm?: string; config?: string; templates?: string };
  /** Names of dpkg's triggers that the postinst is run for, at the end of a transaction. */
  triggers?: readonly string[];
  /** Seconds since 1970 for every member (SOURCE_DATE_EPOCH). */
  mtime: number;
}

/**
 * The bytes of a .deb, a function of its input alone. gzip, not xz: zlib is part of Node, so the bytes do not depend
 * on the host's tools, and every dpkg reads it. Files under /etc become conffiles.
 */
export function makeDeb(input: DebInput): Buffer {
  const { control, files, links = [], folders = [], scripts, triggers = [], mtime } = input;
  if (!Number.isSafeInteger(mtime) || mtime < 0 || mtime >= 8 ** 11) {
    throw new Dkms2binError('usage', `Not a time for package files (SOURCE_DATE_EPOCH): ${mtime}`);
  }
  const data = withFolders(files, links, folders);
  const conffiles = files.map((file) => file.path).filter((path) => path.startsWith('/etc/'));
  const sums = data
    .filter((each) => !each.path.startsWith('/etc/'))
    .flatMap(({ path, bytes }) => (bytes ? [`${md5(bytes)}  ${path.slice(1)}\n`] : []));
  // Policy 5.6.20: KiB, every file rounded up, a folder counts one.
  const installedSize = data.reduce(
    (sum, each) => sum + Math.max(1, Math.ceil((each.bytes?.length ?? 0) / 1024)),
    0,
  );

  const members: TarFile[] = [
    { path: '/control', mode: 0o644, bytes: Buffer.from(formatControl(control, installedSize)) },
  ];
  if (sums.length > 0) members.push({ path: '/md5sums', mode: 0o644, bytes: Buffer.from(sums.join('')) });
  if (conffiles.length > 0) {
    members.push({ path: '/conffiles', mode: 0o644, bytes: Buffer.from(`${conffiles.sort().join('\n')}\n`) });
  }
  for (const name of ['preinst', 'postinst', 'postrm', 'config', 'templates'] as const) {
    const text = scripts[name];
    const mode = name === 'templates' ? 0o644 : 0o755;
    if (text !== undefined) members.push({ path: `/${name}`, mode, bytes: Buffer.from(text) });
  }
  if (triggers.length > 0) {
    const lines = triggers.map((each) => `interest-noawait ${each}\n`);
    members.push({ path: '/triggers', mode: 0o644, bytes: Buffer.from(lines.join('')) });
  }
  const gzip = (entries: NewEntry[]): Buffer => gzipSync(makeTar(entries, mtime), { level: 9 });
  return makeAr(
    [
      ['debian-binary', Buffer.from('2.0\n')],
      ['control.tar.gz', gzip(withFolders(members))],
      ['data.tar.gz', gzip(data)],
    ],
    mtime,
  );
}

const ONE = String.raw`[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?( \((<<|<=|=|>=|>>) [A-Za-z0-9.+~:-]+\))?`;
const RELATION = new RegExp(String.raw`^${ONE}( \| ${ONE})*$`);

/**
 * The control file. Refuses whatever would start a new field or that dpkg would not accept.
 * @internal
 */
export function formatControl(control: ControlFields, installedSize: number): string {
  field('Package', control.package, /^[a-z0-9][a-z0-9+.-]+$/);
  field('Version', control.version, /^(\d+:)?\d[A-Za-z0-9.+~]*(-[A-Za-z0-9.+~]+)*$/);
  field('Architecture', control.architecture, /^[a-z0-9][a-z0-9-]*$/);
  field('Section', control.section, /^[a-z0-9/+-]+$/);
  field('Priority', control.priority, /^[a-z]+$/);
  field('Maintainer', control.maintainer, /^[^<>@,]*[^<>@,\s] <[^<>@\s]+@[^<>@\s]+>$/);
  field('Description', control.description.synopsis, /^\S/);
  const relations = (name: string, items: readonly string[] = []): string[] => {
    for (const item of items) field(name, item, RELATION);
    return items.length === 0 ? [] : [`${name}: ${items.join(', ')}`];
  };
  const lines = control.description.lines.map((line) => {
    if (line.trim() === '') return ' .';
    // A line that starts with a dot means something to dpkg.
    return ` ${field('Description', line, /^[^.]/).trimEnd()}`;
  });
  return [
    `Package: ${control.package}`,
    `Version: ${control.version}`,
    `Architecture: ${control.architecture}`,
    `Maintainer: ${control.maintainer}`,
    `Installed-Size: ${installedSize}`,
    ...relations('Pre-Depends', control.preDepends),
    ...relations('Depends', control.depends),
    ...relations('Recommends', control.recommends),
    ...relations('Suggests', control.suggests),
    ...relations('Conflicts', control.conflicts),
    ...relations('Replaces', control.replaces),
    ...relations('Breaks', control.breaks),
    ...relations('Provides', control.provides),
    `Section: ${control.section}`,
    `Priority: ${control.priority}`,
    ...(control.follows === undefined ? [] : [`${FOLLOWS}: ${field(FOLLOWS, control.follows, /^\S/)}`]),
    ...(control.enrols === undefined ? [] : [`${ENROLS}: ${field(ENROLS, control.enrols, /^[0-9a-f]+$/)}`]),
    `Description: ${control.description.synopsis}`,
    ...lines,
    ...(control.buildIds ? ['Auto-Built-Package: debug-symbols'] : []),
    ...(control.buildIds?.length
      ? [`Build-Ids: ${control.buildIds.map((id) => field('Build-Ids', id, /^[0-9a-f]+$/)).join(' ')}`]
      : []),
    '',
  ].join('\n');
}

function field(name: string, value: string, shape: RegExp): string {
  if (/[\x00-\x1f\x7f-\x9f\u2028\u2029]/.test(value) || !shape.test(value)) {
    throw new Dkms2binError('usage', `Not a value for a package's ${name}: ${JSON.stringify(value)}`);
  }
  return value;
}

function md5(bytes: Buffer): string {
  return createHash('md5').update(bytes).digest('hex');
}
