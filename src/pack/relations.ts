import { relationText, type RpmHeader, type RpmRelation } from '../formats/rpm-header.js';

/** The fields of a .deb that relate it to other packages, as its control file has them. */
const RELATION_FIELDS = [
  ...(['depends', 'recommends', 'suggests', 'provides', 'conflicts', 'breaks', 'replaces'] as const),
];
type RelationField = (typeof RELATION_FIELDS)[number];

/** Relations of a source package that its common package has too, each item one relation. */
export type Relations = Record<RelationField, string[]>;

export const noRelations = (): Relations => ({
  ...{ depends: [], recommends: [], suggests: [], provides: [], conflicts: [], breaks: [], replaces: [] },
});

/** What only a machine that compiles needs: dkms, compilers and what they call, headers. */
const BUILDS = [
  /^(?:dh-)?dkms$/,
  /^(?:gcc|g\+\+|cpp|clang|lld|llvm|binutils|gnu-binutils)(?:-\d+(?:\.\d+)?)?(?:-(?:base|c\+\+|plugin-devel))?$/,
  /^(?:make|patch|bc|bison|flex|build-essential|dpkg-dev|debhelper|fakeroot|dwarves|pahole|rpm-build|redhat-rpm-config|elfutils|c-compiler|kmod-devel)$/,
  /^(?:linux|kernel)(?:-\w+)*-(?:headers|devel|source|srpm-macros|rpm-macros)(?:-|$)/,
  /^linux-(?:headers|libc-dev|kbuild|source|compiler)(?:-|$)/,
  /^kernel-(?:headers|devel|source|macros|syms)(?:-|$)/,
  /^(?:lib|glibc|openssl|elfutils|zlib|ncurses)[\w.+-]*-dev(?:el)?$/,
  /^libc-dev$/,
];

/** @internal */
export const isBuildTool = (name: string): boolean => BUILDS.some((pattern) => pattern.test(name));

/** One package of a relation: `name:any (>= 1.2)`. */
const ATOM = /^([a-z0-9][a-z0-9+.-]+)(:[a-z0-9-]+)?(?:\s*\(\s*(<<|<=|=|>=|>>)\s*([A-Za-z0-9.+~:-]+)\s*\))?$/;

interface Sorting {
  /** Names that every machine of the distro has: nothing takes their place or keeps them away. */
  isOfDistro: (name: string) => boolean;
  /** Names that our packages have themselves, which a relation would keep apart. */
  isOwn: (name: string) => boolean;
}

/**
 * What of a .deb's relations its common package keeps: all but those on what only builds. `dropped` are those that cannot be
 * kept, in words.
 */
export function carriedRelations(
  control: ReadonlyMap<string, string>,
  { isOfDistro, isOwn }: Sorting,
): { relations: Relations; dropped: string[] } {
  const relations = noRelations();
  const dropped: string[] = [];
  const fields: [string, RelationField][] = [
    ['Pre-Depends', 'depends'],
    ...RELATION_FIELDS.map((field): [string, RelationField] => [
      `${field[0]?.toUpperCase()}${field.slice(1)}`,
      field,
    ]),
  ];
  for (const [name, field] of fields) {
    for (const text of itemsOf(control.get(name))) {
      const atoms = text.split('|').map((each) => ATOM.exec(each.trim()));
      if (atoms.some((each) => each === null)) {
        dropped.push(`${name}: ${text}`);
        continue;
      }
      const names = atoms.map((atom) => atom?.[1] ?? '');
      if (names.some(isBuildTool) || (isNegative(field) && names.some(isOwn))) continue;
      if (field !== 'depends' && !isWeak(field) && names.some(isOfDistro)) dropped.push(`${name}: ${text}`);
      else relations[field].push(atoms.map((atom) => written(atom)).join(' | '));
    }
  }
  return { relations, dropped };
}

const isNegative = (field: RelationField): boolean => field === 'conflicts' || field === 'breaks';
const isWeak = (field: RelationField): boolean => field === 'recommends' || field === 'suggests';

const itemsOf = (value = ''): string[] =>
  value
    .split(',')
    .map((each) => each.replaceAll(/\s+/g, ' ').trim())
    .filter((each) => each !== '');

function written(atom: RegExpExecArray | null): string {
  const [, name = '', qualifier = '', operator, version] = atom ?? [];
  return `${name}${qualifier}${operator === undefined ? '' : ` (${operator} ${version})`}`;
}

/** The same of an .rpm, in its own words. What its scripts need, and what rpm says of itself, goes with them. */
export function carriedRpmRelations(
  { name: own, relations: all }: Pick<RpmHeader, 'name' | 'relations'>,
  { isOfDistro, isOwn }: Sorting,
): { relations: Relations; dropped: string[] } {
  const relations = noRelations();
  const dropped: string[] = [];
  const isGone = ({ name, pre }: RpmRelation, kind: RpmKind): boolean =>
    OF_RPM.test(name) ||
    isBuildTool(name) ||
    [own, `${own}(x86-64)`, `${own}(aarch-64)`].includes(name) ||
    (kind === 'requires' ? pre : kind === 'conflicts' && isOwn(name));
  for (const [kind, field] of Object.entries(RPM_FIELDS) as [RpmKind, RelationField][]) {
    for (const each of all[kind].filter((one) => !isGone(one, kind))) {
      const text = relationText(each);
      const takesPlace = kind === 'provides' || kind === 'conflicts' || kind === 'obsoletes';
      if (!RPM_RELATION.test(text) || (takesPlace && isOfDistro(each.name))) dropped.push(`${kind}: ${text}`);
      else relations[field].push(text);
    }
  }
  return { relations, dropped };
}

const RPM_FIELDS = {
  ...({ requires: 'depends', recommends: 'recommends', suggests: 'suggests' } as const),
  ...({ provides: 'provides', conflicts: 'conflicts', obsoletes: 'replaces' } as const),
};
type RpmKind = keyof typeof RPM_FIELDS;

/** What rpm or rpmbuild finds out by itself. */
const OF_RPM = /^(?:rpmlib\(|config\(|elf\(|lib[\w.+-]+\.so)/;

/** What may stand in a spec file as it is. */
const RPM_RELATION = /^[A-Za-z0-9_/][A-Za-z0-9_+.:()/~-]*(?: (?:<|<=|=|>=|>) [A-Za-z0-9.+~^_:-]+)?$/;
