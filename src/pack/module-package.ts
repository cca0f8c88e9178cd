import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DEB_ARCH } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import {
  debCommonName,
  debDebugName,
  debFile,
  debModuleFile,
  debModulesName,
  debName,
  debVersion,
  debVirtualName,
} from '../distro/deb-names.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { writeAtomic, type Published } from '../lib/atomic-write.js';
import type { Packed } from './compress.js';
import { makeDeb, type ControlFields, type DebInput } from './deb.js';
import { debugPaths } from './debug-symbols.js';
import { buildId, checkModule, readModule } from '../formats/elf.js';
import { noRelations, type Relations } from './relations.js';
import { isExtraPath, ownMode } from './shared-files.js';
import type { TarFolder, TarLink } from '../formats/tar.js';

/** A package with a DKMS source, whose place ours take on a machine. */
export interface SourcePackage {
  name: string;
  version?: string;
  /** It is called like a package that every machine of the distro has, whose place nothing may take. */
  ofDistro?: boolean;
  /** Its first module, by which the common package of all its modules is called; by default the one that is packed. */
  leader?: { name: string; version: string };
  /** What the common package has of its relations, in the form of the packages that are made. */
  relations?: Relations;
  /** What its scripts would have done, a line each. */
  notCarried?: readonly string[];
  /** Which of its files are those of other packages of the distro, a line each. */
  overlaps?: readonly string[];
}

export interface PackInput {
  /** The DKMS module's PACKAGE_NAME and PACKAGE_VERSION. */
  module: string;
  version: string;
  /** Kernel release, as `uname -r` prints it. */
  release: string;
  /** Debian's name: amd64. */
  debArch: string;
  /**
   * Uncompressed .ko files, by which they are checked; `name` is a bare file name such as `acpi_call.ko`. With `packed`
   * those bytes are shipped instead, as `acpi_call.ko.xz` for the suffix `.xz`. `debug` are its separate debug symbols.
   */
  modules: readonly { name: string; bytes: Buffer; packed?: Packed; debug?: Buffer }[];
  /** What the DKMS package ships beside its source; every path must pass isExtraPath. */
  extras: readonly { path: string; bytes: Buffer; mode: number }[];
  links?: readonly TarLink[];
  folders?: readonly TarFolder[];
  /** The package that the source came from, as this host read it; null for a folder or a tarball. */
  sourcePackage: SourcePackage | null;
  /** `Name <address>`. */
  maintainer: string;
  /** DKMS names of BUILD_DEPENDS: their packages for the same kernel are depended on. */
  dependsModules: readonly string[];
  /** Names that the kernel's image can have: one of them is depended on. */
  kernelImages: readonly string[];
  /** Seconds since 1970 (SOURCE_DATE_EPOCH). Take it from the source, so that every kernel's common package is the same. */
  mtime: number;
  outDir: string;
  /** File name of the main package. */
  fileName: string;
}

export interface PackedPackage extends Published {
  /** `common`: files for every kernel. `debug`: debug symbols, which nothing but a debugger wants. */
  role: 'modules' | 'common' | 'debug';
  path: string;
  package: string;
  version: string;
  architecture: string;
}

export const RELEASE = /^[0-9][A-Za-z0-9.+~_-]{0,63}$/;
/** It stands in scripts. */
export const MODULE_NAME = /^[A-Za-z0-9][A-Za-z0-9+._-]*$/;
const MODULE_FILE = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}\.ko$/;
/**
 * Writes the binary packages of one cell into outDir. What comes of a DKMS package has a package of its own,
 * `<module>-modules-common`, which is first in the result: it takes that package's place, holds what it brings beside its
 * source, and is the same for every kernel, so that several kernels' packages install side by side. Debug symbols go into
 * `<module>-modules-<release>-dbgsym`, the last one.
 */
export async function packModules(input: PackInput): Promise<PackedPackage[]> {
  const { mtime } = input;
  const of = partsOf(input);
  const packages = [
    ...(hasCommon(input) ? [commonPackage(of)] : []),
    modulesPackage(of),
    ...debugPackage(of),
  ];
  const { scripts, triggers } = await scriptsOf(input);
  // All are made before the first is published: what is refused leaves nothing behind.
  const made = packages.map(({ role, file, control, files, links = [], folders = [] }) => ({
    bytes: makeDeb({
      control,
      files,
      links,
      folders,
      scripts: {},
      mtime,
      ...(role === 'modules' && { scripts, triggers }),
    }),
    path: join(input.outDir, file),
    role,
    control,
  }));
  const packed: PackedPackage[] = [];
  for (const { bytes, path, role, control } of made) {
    packed.push({
      role,
      path,
      package: control.package,
      version: control.version,
      architecture: control.architecture,
      ...(await writeAtomic(bytes, path)),
    });
  }
  return packed;
}

interface NewPackage extends Pick<DebInput, 'control' | 'files' | 'links' | 'folders'> {
  role: PackedPackage['role'];
  file: string;
}

/** What the packages of one cell have in common. */
interface Parts {
  input: PackInput;
  /** Names of the packages. */
  common: string;
  commonVersion: string;
  main: string;
  base: Pick<ControlFields, 'version' | 'maintainer' | 'section' | 'priority'>;
  /** Line of the description that names the source package. */
  origin: string[];
  vermagics: string[];
}

/** Checks the input and names the packages that come of it. */
function partsOf(input: PackInput): Parts {
  const { module, release, maintainer, sourcePackage: source } = input;
  if (!RELEASE.test(release)) {
    throw new Dkms2binError('usage', `Not a kernel release: ${JSON.stringify(release)}`);
  }
  if (!/^[^/\0]+\.deb$/.test(input.fileName)) {
    throw new Dkms2binError('usage', `Not a package file name: ${JSON.stringify(input.fileName)}`);
  }
  if (!MODULE_NAME.test(module))
    throw new Dkms2binError('module', `Not a module name: ${JSON.stringify(module)}`);
  const version = debVersion(input.version);
  return {
    input,
    common: debCommonName(source?.leader?.name ?? module),
    commonVersion: source?.version === undefined ? version : debSourceVersion(source.version),
    main: debModulesName(module, release),
    base: { version, maintainer, section: 'kernel', priority: 'optional' },
    origin: source
      ? [`  Source package: ${source.name}${source.version === undefined ? '' : ` ${source.version}`}`]
      : [],
    vermagics: inspect(input),
  };
}

/** Whether there is a package of what all kernels share: of a DKMS package always, since it takes that one's place. */
export const hasCommon = ({ sourcePackage, extras }: Pick<PackInput, 'sourcePackage' | 'extras'>): boolean =>
  sourcePackage !== null || extras.length > 0;

function commonPackage({ input, common, commonVersion, base, origin }: Parts): NewPackage {
  const { module, extras, links = [], folders = [], sourcePackage: source } = input;
  const architecture = hasProgram(extras) ? input.debArch : 'all';
  return {
    role: 'common',
    file: debFile({ name: common, version: commonVersion, architecture }),
    files: extras.map(({ path, bytes, mode }) => ({ path, bytes, mode: extraMode(path, mode) })),
    links,
    folders: folders.map(({ path, mode }) => ({ path, mode: extraMode(path, mode) })),
    control: {
      ...base,
      package: common,
      version: commonVersion,
      architecture,
      ...(source && inPlaceOf(source)),
      description: {
        synopsis: `${source?.leader?.name ?? module} kernel module, files for every kernel`,
        lines: commonText(input, origin),
      },
    },
  };
}

/** Lines of the common package's description. */
export function commonText(
  { version, sourcePackage: source }: Pick<PackInput, 'version' | 'sourcePackage'>,
  origin: readonly string[],
): string[] {
  return [
    'What the DKMS package of the module brings beside its source. It takes the place',
    'of that package.',
    '',
    `  Module version: ${source?.leader?.version ?? version}`,
    ...origin,
    ...(source?.overlaps ?? []).map((line) => `  ${OVERLAP}${line}`),
    ...(source?.notCarried ?? []).map((line) => `  ${NOT_CARRIED}${line}`),
  ];
}

/** Begins a line of a description that says what a script of the source package would have done. */
export const NOT_CARRIED = 'Not carried: ';
/** The same of a file that another package has, too. */
export const OVERLAP = 'In the way: ';

/**
 * The relations by which dpkg and apt exchange a DKMS package for ours in one transaction, either way, and by which what
 * depends on it stays.
 */
function inPlaceOf(source: SourcePackage): Partial<ControlFields> {
  const { name, version, ofDistro } = source;
  const relations = source.relations ?? noRelations();
  // Its name may be an .rpm's.
  const own = !ofDistro && debName(name) === name ? [name] : [];
  const provided = own.map((each) =>
    version !== undefined && DEB_VERSION.test(version) ? `${each} (= ${version})` : each,
  );
  const unique = (...all: string[]): string[] => [...new Set(all)];
  return {
    ...relations,
    provides: unique(...provided, ...relations.provides),
    conflicts: unique(...own, ...relations.conflicts),
    replaces: unique(...own, ...relations.replaces),
  };
}

const DEB_VERSION = /^(\d+:)?\d[A-Za-z0-9.+~]*(-[A-Za-z0-9.+~]+)*$/;

/** A .deb's own version as it is, any other as Debian allows it. */
const debSourceVersion = (version: string): string =>
  DEB_VERSION.test(version) ? version : debVersion(version);

/** Whether there is a program of one architecture among the files. Firmware may look like one. */
export const hasProgram = (files: PackInput['extras']): boolean =>
  files.some(({ path, bytes }) => bytes.subarray(0, 4).equals(ELF) && !path.includes('/firmware/'));

const ELF = Buffer.from('\x7fELF', 'latin1');

function modulesPackage({ input, common, commonVersion, main, base, origin, vermagics }: Parts): NewPackage {
  const { module, release } = input;
  // Where another package brings the same module, dpkg and apt say which one is in the way.
  const own = input.modules.map(({ name }) => debModuleFile(name, release));
  return {
    role: 'modules',
    file: input.fileName,
    files: input.modules.map((each) => ({
      path: `${folderOf(release)}/${each.name}${each.packed?.suffix ?? ''}`,
      mode: 0o644,
      bytes: each.packed?.bytes ?? each.bytes,
    })),
    control: {
      ...base,
      package: main,
      architecture: input.debArch,
      // Before: the DKMS package must have gone, and its own build with it, when this one's modules are put in their place.
      ...(hasCommon(input) && { preDepends: [`${common} (>= ${commonVersion})`] }),
      depends: [
        input.kernelImages.map(debName).join(' | '),
        ...input.dependsModules.map((each) => debModulesName(each, release)),
      ],
      provides: [debVirtualName(module), ...own],
      conflicts: own,
      description: {
        synopsis: `${module} kernel module for Linux ${release}`,
        lines: [
          'Built from its DKMS source for exactly this kernel; needs neither a compiler nor',
          'kernel headers.',
          '',
          `  Module version: ${input.version}`,
          `  Kernel: ${release}`,
          ...vermagics.map((magic) => `  Vermagic: ${magic}`),
          ...origin,
        ],
      },
    },
  };
}

/** None when no module has debug symbols. */
function debugPackage({ input, main, base }: Parts): NewPackage[] {
  const debug = input.modules.flatMap(({ name: file, bytes, debug: symbols }) => {
    if (!symbols) return [];
    const id = buildId(bytes);
    return [{ ...debugPaths(`${folderOf(input.release)}/${file}`, id), id, symbols }];
  });
  if (debug.length === 0) return [];
  return [
    {
      role: 'debug',
      file: debFile({ name: debDebugName(main), version: base.version, architecture: input.debArch }),
      files: debug.map(({ file, symbols }) => ({ path: file, mode: 0o644, bytes: symbols })),
      links: debug.flatMap(({ link }) => link ?? []),
      control: {
        ...base,
        package: debDebugName(main),
        architecture: input.debArch,
        section: 'debug',
        depends: [`${main} (= ${base.version})`],
        buildIds: debug.flatMap(({ id }) => id ?? []).sort(),
        description: { synopsis: `debug symbols for ${main}`, lines: [] },
      },
    },
  ];
}

const folderOf = (release: string): string => `/lib/modules/${release}/updates/dkms`;

function inspect(input: PackInput): string[] {
  const arch = Object.entries(DEB_ARCH).find(([, deb]) => deb === input.debArch)?.[0];
  if (arch === undefined) throw new Dkms2binError('usage', `Unknown Debian architecture ${input.debArch}`);
  return checkModules(input, arch);
}

/** Checks every module against the kernel and returns the distinct vermagics. */
export function checkModules(
  { module, modules, release }: Pick<PackInput, 'module' | 'modules' | 'release'>,
  arch: string,
): string[] {
  if (modules.length === 0) {
    throw new Dkms2binError('module', `The build of ${module} made no kernel module`);
  }
  const magics = new Set<string>();
  for (const { name, bytes, packed } of modules) {
    if (!MODULE_FILE.test(name) || !/^(\.(gz|xz|zst))?$/.test(packed?.suffix ?? '')) {
      const file = `${name}${packed?.suffix ?? ''}`;
      throw new Dkms2binError('module', `Not a kernel module's file name: ${JSON.stringify(file)}`);
    }
    const info = readModule(bytes);
    checkModule(info, { release, arch }, name);
    magics.add(info.vermagic);
  }
  return [...magics].sort();
}

/** The mode that such a file or folder gets. Throws fault `module` for a path that isExtraPath refuses. */
export function extraMode(path: string, mode: number): number {
  if (!isExtraPath(path)) {
    throw new Dkms2binError('module', `Not a file that a module package may ship: ${JSON.stringify(path)}`);
  }
  return ownMode(mode);
}

async function scriptsOf({
  module,
  release,
  modules,
}: PackInput): Promise<Pick<DebInput, 'scripts'> & { triggers: string[] }> {
  const variables: Record<string, string> = {
    RELEASE: release,
    MODULE: module,
    FILES: modules.map(({ name }) => name).join(' '),
    TRIGGER: `dkms2bin-initramfs-${release}`,
    INITRAMFS: await template('initramfs.sh'),
  };
  const script = async (name: string): Promise<string> => filled(await template(name), variables);
  return {
    scripts: {
      preinst: await script('preinst.sh'),
      postinst: await script('postinst.sh'),
      postrm: await script('postrm.sh'),
    },
    triggers: [variables.TRIGGER ?? ''],
  };
}

/** A file of cloud-init/package. */
export const template = (name: string): Promise<string> =>
  readFile(join(PACKAGE_ROOT, 'cloud-init', 'package', name), 'utf8');

/** A script with values in place of `@NAME@`; what stands in a value is filled as well. */
export function filled(script: string, variables: Readonly<Record<string, string>>): string {
  const fill = (text: string): string =>
    text.replaceAll(/@([A-Z]+)@/g, (_, name: string) => variables[name] ?? '');
  return fill(fill(script));
}
