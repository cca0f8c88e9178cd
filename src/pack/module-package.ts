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
import { isExtraPath } from './shared-files.js';

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
  /** What the DKMS package ships outside /usr/src; every path must pass isExtraPath. */
  extras: readonly { path: string; bytes: Buffer; mode: number }[];
  /**
   * The package that the source came from, as this host read it; null for a folder or a tarball. With `ofDistro` it is called like
   * a package that every machine of the distro has, whose place nothing may take.
   */
  sourcePackage: { name: string; version?: string; ofDistro?: boolean } | null;
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
const MODULE_FILE = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}\.ko$/;
/**
 * Writes the binary packages of one cell into outDir. When there are extras they go into a package of their own,
 * `<module>-modules-common`, which is first in the result: it is the same for every kernel, so that several kernels'
 * packages install side by side. Debug symbols go into `<module>-modules-<release>-dbgsym`, the last one.
 */
export async function packModules(input: PackInput): Promise<PackedPackage[]> {
  const { release, mtime } = input;
  const of = partsOf(input);
  const packages = [
    ...(input.extras.length > 0 ? [commonPackage(of)] : []),
    modulesPackage(of),
    ...debugPackage(of),
  ];
  const scripts = { postinst: await script('postinst', release), postrm: await script('postrm', release) };
  // All are made before the first is published: what is refused leaves nothing behind.
  const made = packages.map(({ role, file, control, files, links = [] }) => ({
    bytes: makeDeb({ control, files, links, scripts: role === 'modules' ? scripts : {}, mtime }),
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

interface NewPackage extends Pick<DebInput, 'control' | 'files' | 'links'> {
  role: PackedPackage['role'];
  file: string;
}

/** What the packages of one cell have in common. */
interface Parts {
  input: PackInput;
  /** Names of the packages. */
  common: string;
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
  if (debName(module) === '')
    throw new Dkms2binError('module', `Not a module name: ${JSON.stringify(module)}`);
  const version = debVersion(input.version);
  return {
    input,
    common: debCommonName(module),
    main: debModulesName(module, release),
    base: { version, maintainer, section: 'kernel', priority: 'optional' },
    origin: source
      ? [`  Source package: ${source.name}${source.version === undefined ? '' : ` ${source.version}`}`]
      : [],
    vermagics: inspect(input),
  };
}

function commonPackage({ input, common, base, origin }: Parts): NewPackage {
  const { module, extras, sourcePackage: source } = input;
  return {
    role: 'common',
    file: debFile({ name: common, version: base.version, architecture: 'all' }),
    files: extras.map(({ path, bytes, mode }) => ({ path, bytes, mode: extraMode(path, mode) })),
    control: {
      ...base,
      package: common,
      architecture: 'all',
      // It may be an .rpm.
      ...(source &&
        !source.ofDistro &&
        debName(source.name) === source.name && { conflicts: [source.name], replaces: [source.name] }),
      description: {
        synopsis: `${module} kernel module, files for every kernel`,
        lines: [
          'Configuration, udev rules and firmware that the module needs beside it.',
          '',
          `  Module version: ${input.version}`,
          ...origin,
        ],
      },
    },
  };
}

function modulesPackage({ input, common, main, base, origin, vermagics }: Parts): NewPackage {
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
      depends: [
        input.kernelImages.map(debName).join(' | '),
        ...(input.extras.length > 0 ? [`${common} (>= ${base.version})`] : []),
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

/** The mode that such a file gets: its own, without setuid, and nobody but root may write. Throws fault `module` for a path that isExtraPath refuses. */
export function extraMode(path: string, mode: number): number {
  if (!isExtraPath(path)) {
    throw new Dkms2binError('module', `Not a file that a module package may ship: ${JSON.stringify(path)}`);
  }
  return mode & 0o755;
}

async function script(name: 'postinst' | 'postrm', release: string): Promise<string> {
  const template = await readFile(join(PACKAGE_ROOT, 'cloud-init', 'package', `${name}.sh`), 'utf8');
  return template.replaceAll('@RELEASE@', () => release);
}
