import { createHash } from 'node:crypto';
import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import {
  rpmCommonName,
  rpmModuleCapability,
  rpmModuleFile,
  rpmNames,
  rpmVersion,
  type RpmForm,
  type RpmNames,
} from '../distro/rpm-names.js';
import { buildId, readModule } from '../formats/elf.js';
import type { TarFile } from '../formats/tar.js';
import {
  checkModules,
  commonText,
  extraMode,
  filled,
  hasCommon,
  hasProgram,
  MODULE_NAME,
  RELEASE,
  template,
  type PackInput,
} from './module-package.js';
import { noRelations } from './relations.js';

export type RpmInput = Omit<PackInput, 'debArch' | 'kernelImages' | 'outDir' | 'fileName'> & {
  arch: Arch;
  form: RpmForm;
};

/** A package that rpmbuild will make, and what has to be in it. */
export interface RpmPlan {
  role: 'modules' | 'common' | 'debug';
  file: string;
  package: string;
  version: string;
  release: string;
  architecture: string;
  requires: string[];
  files: { path: string; mode: number; sha256: string }[];
  /** Symbolic links. */
  links: { path: string; target: string }[];
  /** Folders that come for their own sake. */
  folders: { path: string; mode: number }[];
}

export interface RpmSpec {
  spec: string;
  /** In the order in which the spec file numbers them: `0`, `1`, … in the source folder. */
  sources: Buffer[];
  packages: RpmPlan[];
}

/** A package's part of the spec file, and of its plan what differs from package to package. */
interface SpecPackage extends Omit<RpmPlan, 'files'> {
  files: TarFile[];
  /** Lines of its preamble. */
  preamble: string[];
  /** Lines of text; '' is a blank one. */
  description: string[];
}

/** What the packages of one cell have in common. */
interface Parts {
  input: RpmInput;
  names: RpmNames;
  /** Name and version of the package with what all kernels share. */
  common: { name: string; version: string };
  /** Line of the description that names the source package. */
  origin: string[];
  vermagics: string[];
}

/**
 * What rpmbuild needs for the packages of one cell; the result is a function of the input alone. As with .deb packages,
 * extras go into a package of their own, and so do debug symbols. Throws fault `module` for what the build made, `usage` for the rest.
 */
export async function makeRpmSpec(input: RpmInput): Promise<RpmSpec> {
  const of = partsOf(input);
  const { names } = of;
  const main = modulesPackage(of);
  const common = hasCommon(input) ? [commonPackage(of)] : [];
  const debug = debugPackage(of);
  const others = [...common, ...debug];
  const folder = `/lib/modules/${input.release}/${names.folder}`;
  const lines = [
    ...SETTINGS,
    ...main.preamble,
    '',
    '%description',
    ...main.description.map(text),
    '',
    ...others.flatMap((each) => [
      `%package -n ${each.package}`,
      ...each.preamble,
      '',
      `%description -n ${each.package}`,
      ...each.description.map(text),
      '',
    ]),
    '%install',
    ...installLines([main, ...others], input.mtime),
    // Every folder that is the package's own.
    `touch -d @${input.mtime} '%{buildroot}${folder}'`,
    '',
    '%files',
    ...fileLines(main, [`%dir ${folder}`]),
    '',
    ...others.flatMap((each) => [`%files -n ${each.package}`, ...fileLines(each), '']),
    ...(await scripts(input.form, {
      RELEASE: input.release,
      MODULE: input.module,
      PACKAGE: names.name,
      NAMES: input.modules.map(({ name }) => name).join(' '),
      INITRAMFS: await template('rpm-initramfs.sh'),
      NVR: `${names.name}-${names.version}-${names.release}`,
      MODULES: main.files.map(({ path }) => path).join(' '),
    })),
  ];
  return {
    spec: `${lines.join('\n')}\n`,
    sources: [main, ...others].flatMap(({ files }) => files.map(({ bytes }) => bytes)),
    packages: [...common, main, ...debug].map(planOf),
  };
}

const SETTINGS = [
  // rpmbuild must neither strip nor compress: what is signed would not be valid any more.
  '%global debug_package %{nil}',
  '%global __os_install_post %{nil}',
  // Firmware that looks like a program.
  '%global _binaries_in_noarch_packages_terminate_build 0',
  // Helpers keep the first line that they have.
  '%global __brp_mangle_shebangs %{nil}',
  '%global _build_id_links none',
  '%global _binary_filedigest_algorithm 8',
  // The package's bytes are a function of what is in it.
  '%global source_date_epoch_from_changelog 0',
  '%global use_source_date_epoch_as_buildtime 1',
  '%global clamp_mtime_to_source_date_epoch 1',
  '%global _buildhost dkms2bin',
];

/** Checks the input and names the packages that come of it. */
function partsOf(input: RpmInput): Parts {
  const { module, release, form, arch, sourcePackage: source } = input;
  if (!RELEASE.test(release)) {
    throw new Dkms2binError('usage', `Not a kernel release: ${JSON.stringify(release)}`);
  }
  if (!MODULE_NAME.test(module)) {
    throw new Dkms2binError('module', `Not a module name: ${JSON.stringify(module)}`);
  }
  return {
    input,
    names: rpmNames({ module, version: input.version, release, arch }, form),
    common: {
      name: rpmCommonName(source?.leader?.name ?? module),
      version: rpmVersion(source?.version ?? input.version),
    },
    origin: source ? [`Source package: ${[source.name, source.version].filter(Boolean).join(' ')}`] : [],
    vermagics: checkModules(input, arch),
  };
}

function modulesPackage({ input, names, common, origin, vermagics }: Parts): SpecPackage {
  const { module, release, form, arch } = input;
  const requires = [
    ...names.requires,
    ...(hasCommon(input) ? [`${common.name} >= ${common.version}`] : []),
    ...input.dependsModules.map((each) => rpmModuleCapability(each, release, form)),
  ];
  // Each package has a folder of its own: without that two could be installed that bring the same module.
  const own = input.modules.map(({ name }) => rpmModuleFile(name, release));
  const licenses = new Set(input.modules.map(({ bytes }) => readModule(bytes).license ?? 'Unknown'));
  return {
    role: 'modules',
    file: names.file,
    package: names.name,
    version: names.version,
    release: names.release,
    architecture: arch,
    requires,
    files: input.modules.map((each) => ({
      path: `/lib/modules/${release}/${names.folder}/${each.name}${each.packed?.suffix ?? ''}`,
      mode: 0o644,
      bytes: each.packed?.bytes ?? each.bytes,
    })),
    links: [],
    folders: [],
    preamble: [
      tag('Name', names.name),
      tag('Version', names.version),
      tag('Release', names.release),
      tag('Summary', `${module} kernel module for Linux ${release}`),
      tag('License', [...licenses].sort().join(' and ')),
      tag('Group', 'System/Kernel'),
      tag('Packager', input.maintainer),
      tag('ExclusiveArch', arch),
      'AutoReqProv: no',
      ...requires.map((each) => tag('Requires', each)),
      'Requires(post): kmod',
      'Requires(postun): kmod',
      ...[...names.provides, ...own].map((each) => tag('Provides', each)),
      ...[...names.conflicts, ...own].map((each) => tag('Conflicts', each)),
      ...names.obsoletes.map((each) => tag('Obsoletes', each)),
    ],
    description: [
      'Built from its DKMS source for exactly this kernel; needs neither a compiler nor',
      'kernel headers.',
      '',
      `Module version: ${input.version}`,
      `Kernel: ${release}`,
      ...vermagics.map((each) => `Vermagic: ${each}`),
      ...origin,
    ],
  };
}

function commonPackage({ input, names, common, origin }: Parts): SpecPackage {
  const { module, extras, links = [], folders = [], sourcePackage: source } = input;
  const relations = source?.relations ?? noRelations();
  const own = source && !source.ofDistro ? [source.name] : [];
  const version = source?.version;
  const provided = own.map((name) => (version === undefined ? name : `${name} = ${version}`));
  const architecture = hasProgram(extras) ? input.arch : 'noarch';
  const tags = (name: string, values: readonly string[]): string[] =>
    [...new Set(values)].map((value) => tag(name, value));
  return {
    role: 'common',
    file: `${common.name}-${common.version}-${names.release}.${architecture}.rpm`,
    package: common.name,
    version: common.version,
    release: names.release,
    architecture,
    requires: relations.depends,
    files: extras.map(({ path, bytes, mode }) => ({ path, bytes, mode: extraMode(path, mode) })),
    links: [...links],
    folders: folders.map(({ path, mode }) => ({ path, mode: extraMode(path, mode) })),
    preamble: [
      tag('Version', common.version),
      tag('Summary', `${source?.leader?.name ?? module} kernel module, files for every kernel`),
      ...(architecture === 'noarch' ? ['BuildArch: noarch'] : []),
      'AutoReqProv: no',
      ...tags('Requires', relations.depends),
      ...tags('Recommends', relations.recommends),
      ...tags('Suggests', relations.suggests),
      ...tags('Provides', [...provided, ...relations.provides]),
      ...tags('Conflicts', [...own, ...relations.conflicts]),
      ...tags('Obsoletes', relations.replaces),
    ],
    description: commonText(input, origin).map((line) => line.trim()),
  };
}

/** None when no module has debug symbols. */
function debugPackage({ input, names }: Parts): SpecPackage[] {
  const symbols = input.modules.flatMap(({ name, bytes, debug }) => {
    if (!debug) return [];
    const path = `/usr/lib/debug/lib/modules/${input.release}/${names.folder}/${name}.debug`;
    return [{ file: { path, mode: 0o644, bytes: debug }, id: buildId(bytes) }];
  });
  if (symbols.length === 0) return [];
  const debugName = `${names.name}-debuginfo`;
  return [
    {
      role: 'debug',
      file: `${debugName}-${names.version}-${names.release}.${input.arch}.rpm`,
      package: debugName,
      version: names.version,
      release: names.release,
      architecture: input.arch,
      requires: [],
      files: symbols.map(({ file }) => file),
      // Debuggers look by build id, crash by the module's own path.
      links: symbols.flatMap(({ file, id }) =>
        id === undefined
          ? []
          : [
              {
                path: `/usr/lib/debug/.build-id/${id.slice(0, 2)}/${id.slice(2)}.debug`,
                target: `../../${file.path.slice('/usr/lib/debug/'.length)}`,
              },
            ],
      ),
      folders: [],
      preamble: [
        tag('Summary', `Debug symbols of the ${input.module} kernel module for Linux ${input.release}`),
        'Group: Development/Debug',
        'AutoReqProv: no',
        ...symbols.flatMap(({ id }) => (id ? [tag('Provides', `debuginfo(build-id) = ${id}`)] : [])),
      ],
      description: ['What a debugger wants to know of the module.'],
    },
  ];
}

/** Shell lines that put every file, by its number, every link and every folder in its place. */
function installLines(packages: readonly SpecPackage[], mtime: number): string[] {
  const files = packages.flatMap((each) => each.files);
  const links = packages.flatMap((each) => each.links);
  const folders = packages.flatMap((each) => each.folders);
  return [
    ...files.flatMap((file, number) => {
      const to = `'%{buildroot}${path(file.path)}'`;
      return [`install -D -m ${octal(file.mode)} %{_sourcedir}/${number} ${to}`, `touch -d @${mtime} ${to}`];
    }),
    ...links.flatMap(({ path: from, target }) => {
      if (!isRpmTarget(target))
        throw new Dkms2binError('module', `Not a link that an .rpm can hold: ${JSON.stringify(target)}`);
      const to = `'%{buildroot}${path(from)}'`;
      return [`mkdir -p "$(dirname ${to})"`, `ln -s '${target}' ${to}`, `touch -h -d @${mtime} ${to}`];
    }),
    // Their modes are in the list of files: rpmbuild must be able to look into them.
    ...folders.map((each) => `mkdir -p '%{buildroot}${path(each.path)}'`),
    // Putting something into a folder changes its time.
    ...folders.map((each) => `touch -d @${mtime} '%{buildroot}${path(each.path)}'`),
  ];
}

/** The list of a package's files, after `more` lines of it. */
function fileLines({ files, links, folders }: SpecPackage, more: readonly string[] = []): string[] {
  return [
    '%defattr(-,root,root,0755)',
    ...more,
    ...folders.map((each) => `%dir %attr(${octal(each.mode)},root,root) ${path(each.path)}`),
    ...files.map(fileLine),
    ...links.map((each) => path(each.path)),
  ];
}

function planOf({ preamble: _, description: __, files, ...plan }: SpecPackage): RpmPlan {
  const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
  return { ...plan, files: files.map(({ path, mode, bytes }) => ({ path, mode, sha256: sha256(bytes) })) };
}

/** One line of a spec file's preamble; macros in the value are plain text. */
function tag(name: string, value: string): string {
  if (/[\x00-\x1f\x7f-\x9f\u2028\u2029]/.test(value) || value.trim() === '') {
    throw new Dkms2binError('usage', `Not a value for a package's ${name}: ${JSON.stringify(value)}`);
  }
  return `${name}: ${value.replaceAll('%', '%%')}`;
}

/** A line of a description. What begins with `#` would be a comment. */
function text(line: string): string {
  return line === '' ? '' : tag('', line).slice(2).replace(/^#/, ' #');
}

/** A path in single quotes and in a list of files, where blanks and globs mean something. */
function path(of: string): string {
  if (!isRpmPath(of)) {
    throw new Dkms2binError('module', `Not a path that an .rpm can hold: ${JSON.stringify(of)}`);
  }
  return of;
}

/** Whether an .rpm can hold a file of that path, which stands in its spec file. */
export const isRpmPath = (path: string): boolean => /^(\/[A-Za-z0-9._+:@,=~-]+)+$/.test(path);

/** Whether a link in an .rpm can lead there. */
export const isRpmTarget = (target: string): boolean => /^[A-Za-z0-9._+:@,=~/-]+$/.test(target);

const octal = (mode: number): string => mode.toString(8).padStart(4, '0');

/** An administrator's changes to what lies in /etc outlive an upgrade. */
const fileLine = (file: TarFile): string =>
  `%attr(${octal(file.mode)},root,root) ${file.path.startsWith('/etc/') ? '%config(noreplace) ' : ''}${path(file.path)}`;

/** The scriptlets, from cloud-init/package. */
async function scripts(form: RpmForm, variables: Record<string, string>): Promise<string[]> {
  const all = await Promise.all(
    ['pre', 'post', 'postun', 'posttrans'].map(async (name) => {
      const file = name === 'pre' ? 'rpm-pre.sh' : `${form}-${name}.sh`;
      return [`%${name}`, filled(await template(file), variables).replaceAll('%', '%%')];
    }),
  );
  return all.flat();
}
