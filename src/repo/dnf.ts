import {
  RELATION_KINDS,
  type RelationKind,
  type RpmHeader,
  type RpmRelation,
} from '../formats/rpm-header.js';
import type { RpmFile } from './package-files.js';

const PRIMARY = /^\/etc\/|bin\/|^\/usr\/lib\/sendmail$/;
/** Newest entries of a changelog that `other` keeps. */
const CHANGELOG_ENTRIES = 10;

/** primary.xml: what dnf needs to resolve and to download. */
export function primaryXml(packages: readonly RpmFile[]): string {
  const one = (file: RpmFile): string => {
    const { header: h } = file;
    return [
      '<package type="rpm">',
      `<name>${xml(h.name)}</name>`,
      `<arch>${xml(h.arch)}</arch>`,
      versionXml(h),
      `<checksum type="sha256" pkgid="YES">${file.sha256}</checksum>`,
      `<summary>${xml(h.summary)}</summary>`,
      `<description>${xml(h.description)}</description>`,
      `<packager>${xml(h.packager)}</packager>`,
      `<url>${xml(h.url)}</url>`,
      // The build's time for the file's, too: the same packages give the same bytes.
      `<time file="${h.buildTime}" build="${h.buildTime}"/>`,
      `<size package="${file.size}" installed="${h.installedSize}" archive="${h.archiveSize}"/>`,
      `<location href="${xml(file.path)}"/>`,
      '<format>',
      `<rpm:license>${xml(h.license)}</rpm:license>`,
      `<rpm:vendor>${xml(h.vendor)}</rpm:vendor>`,
      `<rpm:group>${xml(h.group)}</rpm:group>`,
      `<rpm:buildhost>${xml(h.buildHost)}</rpm:buildhost>`,
      `<rpm:sourcerpm>${xml(h.sourceRpm)}</rpm:sourcerpm>`,
      `<rpm:header-range start="${h.headerRange[0]}" end="${h.headerRange[1]}"/>`,
      ...RELATION_KINDS.map((kind) => relationsXml(kind, h)),
      ...h.files.filter(({ path }) => PRIMARY.test(path)).map(fileXml),
      '</format>',
      '</package>',
    ]
      .filter((line) => line !== '')
      .join('\n');
  };
  const attributes =
    'xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm"';
  return document('metadata', `${attributes} packages="${packages.length}"`, packages.map(one));
}

/** filelists.xml: all files of all packages. */
export function filelistsXml(packages: readonly RpmFile[]): string {
  return document(
    'filelists',
    `xmlns="http://linux.duke.edu/metadata/filelists" packages="${packages.length}"`,
    packages.map((file) => packageXml(file, file.header.files.map(fileXml))),
  );
}

/** other.xml: changelogs, the oldest entry first. */
export function otherXml(packages: readonly RpmFile[]): string {
  return document(
    'otherdata',
    `xmlns="http://linux.duke.edu/metadata/other" packages="${packages.length}"`,
    packages.map((file) => {
      const entries = file.header.changelog.slice(0, CHANGELOG_ENTRIES).reverse();
      return packageXml(
        file,
        entries.map(
          ({ author, time, text }) =>
            `<changelog author="${xml(author)}" date="${time}">${xml(text)}</changelog>`,
        ),
      );
    }),
  );
}

export interface RepoData {
  type: 'primary' | 'filelists' | 'other';
  /** Of the compressed file. */
  sha256: string;
  size: number;
  open: { sha256: string; size: number };
}

/** Name of a metadata file in `repodata/`: by its content, so that an older repomd.xml still finds its own. */
export const dataName = (data: RepoData): string => `${data.sha256}-${data.type}.xml.gz`;

/** repomd.xml; `date` in seconds since 1970. */
export function repomdXml(data: readonly RepoData[], date: number): string {
  const items = data.map((each) =>
    [
      `<data type="${each.type}">`,
      `<checksum type="sha256">${each.sha256}</checksum>`,
      `<open-checksum type="sha256">${each.open.sha256}</open-checksum>`,
      `<location href="repodata/${dataName(each)}"/>`,
      `<timestamp>${date}</timestamp>`,
      `<size>${each.size}</size>`,
      `<open-size>${each.open.size}</open-size>`,
      '</data>',
    ].join('\n'),
  );
  return document(
    'repomd',
    'xmlns="http://linux.duke.edu/metadata/repo" xmlns:rpm="http://linux.duke.edu/metadata/rpm"',
    [`<revision>${date}</revision>`, ...items],
  );
}

/** Seconds since 1970 of a repomd.xml, undefined without. */
export function repomdDate(repomd: string): number | undefined {
  const revision = /<revision>(\d+)<\/revision>/.exec(repomd)?.[1];
  return revision === undefined ? undefined : Number(revision);
}

/** The files in `repodata/` that a repomd.xml names. */
export function repomdFiles(repomd: string): string[] {
  return [...repomd.matchAll(/<location href="repodata\/([^"/]+)"/g)].map(([, name = '']) => name);
}

function document(root: string, attributes: string, items: readonly string[]): string {
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<${root} ${attributes}>`,
    ...items,
    `</${root}>`,
    '',
  ].join('\n');
}

const versionXml = ({ epoch, version, release }: RpmHeader): string =>
  `<version epoch="${epoch}" ver="${xml(version)}" rel="${xml(release)}"/>`;

const packageXml = ({ sha256, header }: RpmFile, lines: readonly string[]): string =>
  [
    `<package pkgid="${sha256}" name="${xml(header.name)}" arch="${xml(header.arch)}">`,
    versionXml(header),
    ...lines,
    '</package>',
  ].join('\n');

const fileXml = ({ path, type }: RpmHeader['files'][number]): string =>
  type === 'file' ? `<file>${xml(path)}</file>` : `<file type="${type}">${xml(path)}</file>`;

function relationsXml(kind: RelationKind, header: RpmHeader): string {
  const own = new Set(header.relations.provides.map(entryXml));
  const lines = header.relations[kind]
    // What rpm itself must be able to do is no package, and what the package brings it need not look for.
    .filter((each) => kind !== 'requires' || !(each.name.startsWith('rpmlib(') || own.has(entryXml(each))))
    .map((each) => `<rpm:entry ${entryXml(each)}${kind === 'requires' && each.pre ? ' pre="1"' : ''}/>`);
  return lines.length === 0 ? '' : [`<rpm:${kind}>`, ...new Set(lines), `</rpm:${kind}>`].join('\n');
}

function entryXml({ name, flags, evr }: RpmRelation): string {
  if (flags === undefined || !evr) return `name="${xml(name)}"`;
  const release = evr.release === undefined ? '' : ` rel="${xml(evr.release)}"`;
  return `name="${xml(name)}" flags="${flags}" epoch="${evr.epoch}" ver="${xml(evr.version)}"${release}`;
}

/** Escapes for text and attributes; what XML cannot hold is left out. */
function xml(text: string): string {
  return text
    .replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, '')
    .replace(/[&<>"]/g, (char) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[char] ?? char);
}
