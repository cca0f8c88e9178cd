import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import {
  rpmCommonName,
  rpmModuleCapability,
  rpmNames,
  rpmVersion,
  type RpmForm,
} from '../distro/rpm-names.js';
import { buildId, readModule } from '../formats/elf.js';
import { checkModules, extraMode, RELEASE, type PackInput } from './module-package.js';

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
}

export interface RpmSpec {
  spec: string;
  /** In the order in which the spec file numbers them: `0`, `1`, … in the source folder. */
  sources: Buffer[];
  packages: RpmPlan[];
}

interface SpecFile {
  path: string;
  mode: number;
  bytes: Buffer;
}

/**
 * What rpmbuild needs for the packages of one cell; the result is a function of the input alone. As with .deb packages,
 * extras go into a package of their own, and so do debug symbols. Throws fault `module` for what the build made, `usage` for the rest.
 */
export async function makeRpmSpec(input: RpmInput): Promise<RpmSpec> {
  const { module, release, form, arch } = input;
  if (!RELEASE.test(release)) {
    throw new Dkms2binError('usage', `Not a kernel release: ${JSON.stringify(release)}`);
  }
  if (!/^[A-Za-z0-9][A-Za-z0-9+._-]*$/.test(module)) {
    throw new Dkms2binError('module', `Not a module name: ${JSON.stringify(module)}`);
  }
  const names = rpmNames({ module, version: input.version, release, arch }, form);
  const vermagics = checkModules(input, arch);
  const modules: SpecFile[] = input.modules.map((each) => ({
    path: `/lib/modules/${release}/${names.folder}/${each.name}${each.packed?.suffix ?? ''}`,
    mode: 0o644,
    bytes: each.packed?.bytes ?? each.bytes,
  }));
  const extras: SpecFile[] = input.extras.map(({ path, bytes, mode }) => ({
    path,
    bytes,
    mode: extraMode(path, mode),
  }));
  const common = { name: rpmCommonName(module), version: rpmVersion(input.version) };
  const requires = [
    ...names.requires,
    ...(extras.length > 0 ? [`${common.name} >= ${common.version}`] : []),
    ...input.dependsModules.map((each) => rpmModuleCapability(each, release, form)),
  ];
  const symbols = input.modules.flatMap(({ name, bytes, debug }) => {
    if (!debug) return [];
    const path = `/usr/lib/debug/lib/modules/${release}/${names.folder}/${name}.debug`;
    const id = buildId(bytes);
    // Debuggers look by build id, crash by the module's own path.
    const link = id !== undefined && {
      path: `/usr/lib/debug/.build-id/${id.slice(0, 2)}/${id.slice(2)}.debug`,
      target: `../../${path.slice('/usr/lib/debug/'.length)}`,
    };
    return [{ file: { path, mode: 0o644, bytes: debug }, id, link }];
  });
  const debug = symbols.map(({ file }) => file);
  const links = symbols.flatMap(({ link }) => link || []);
  const debugName = `${names.name}-debuginfo`;
  const files = [...modules, ...extras, ...debug];
  const numbered = (some: readonly SpecFile[]): { file: SpecFile; number: number }[] =>
    some.map((file) => ({ file, number: files.indexOf(file) }));
  const origin = input.sourcePackage
    ? [`Source package: ${[input.sourcePackage.name, input.sourcePackage.version].filter(Boolean).join(' ')}`]
    : [];
  const licenses = new Set(input.modules.map(({ bytes }) => readModule(bytes).license ?? 'Unknown'));
  const variables: Record<string, string> = {
    RELEASE: release,
    NVR: `${names.name}-${names.version}-${names.release}`,
    MODULES: modules.map(({ path }) => path).join(' '),
  };

  const lines = [
    // rpmbuild must neither strip nor compress: what is signed would not be valid any more.
    '%global debug_package %{nil}',
    '%global __os_install_post %{nil}',
    '%global _build_id_links none',
    '%global _binary_filedigest_algorithm 8',
    // The package's bytes are a function of what is in it.
    '%global source_date_epoch_from_changelog 0',
    '%global use_source_date_epoch_as_buildtime 1',
    '%global clamp_mtime_to_source_date_epoch 1',
    '%global _buildhost dkms2bin',
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
    ...names.provides.map((each) => tag('Provides', each)),
    ...names.conflicts.map((each) => tag('Conflicts', each)),
    ...names.obsoletes.map((each) => tag('Obsoletes', each)),
    '',
    '%description',
    text('Built from its DKMS source for exactly this kernel; needs neither a compiler nor'),
    text('kernel headers.'),
    '',
    ...[
      `Module version: ${input.version}`,
      `Kernel: ${release}`,
      ...vermagics.map((each) => `Vermagic: ${each}`),
      ...origin,
    ].map(text),
    '',
    ...(extras.length === 0
      ? []
      : [
          `%package -n ${common.name}`,
          tag('Version', common.version),
          tag('Summary', `${module} kernel module, files for every kernel`),
          'BuildArch: noarch',
          ...(input.sourcePackage ? [tag('Conflicts', input.sourcePackage.name)] : []),
          '',
          `%description -n ${common.name}`,
          text('Configuration, udev rules and firmware that the module needs beside it.'),
          '',
          ...[`Module version: ${input.version}`, ...origin].map(text),
          '',
        ]),
    ...(debug.length === 0
      ? []
      : [
          `%package -n ${debugName}`,
          tag('Summary', `Debug symbols of the ${module} kernel module for Linux ${release}`),
          'Group: Development/Debug',
          'AutoReqProv: no',
          ...symbols.flatMap(({ id }) => (id ? [tag('Provides', `debuginfo(build-id) = ${id}`)] : [])),
          '',
          `%description -n ${debugName}`,
          text('What a debugger wants to know of the module.'),
          '',
        ]),
    '%install',
    ...numbered(files).flatMap(({ file, number }) => {
      const to = `'%{buildroot}${path(file.path)}'`;
      return [
        `install -D -m ${octal(file.mode)} %{_sourcedir}/${number} ${to}`,
        `touch -d @${input.mtime} ${to}`,
      ];
    }),
    ...links.flatMap(({ path: from, target }) => {
      const to = `'%{buildroot}${path(from)}'`;
      return [`mkdir -p "$(dirname ${to})"`, `ln -s '${target}' ${to}`, `touch -h -d @${input.mtime} ${to}`];
    }),
    // Every folder that is the package's own.
    `touch -d @${input.mtime} '%{buildroot}/lib/modules/${release}/${names.folder}'`,
    '',
    '%files',
    '%defattr(-,root,root,0755)',
    `%dir /lib/modules/${release}/${names.folder}`,
    ...modules.map(fileLine),
    '',
    ...(extras.length === 0
      ? []
      : [`%files -n ${common.name}`, '%defattr(-,root,root,0755)', ...extras.map(fileLine), '']),
    ...(debug.length === 0
      ? []
      : [
          `%files -n ${debugName}`,
          '%defattr(-,root,root,0755)',
          ...debug.map(fileLine),
          ...links.map((each) => path(each.path)),
          '',
        ]),
    ...(await scripts(form, variables)),
  ];
  const plan = (some: readonly SpecFile[]): RpmPlan['files'] =>
    some.map(({ path, mode, bytes }) => ({
      path,
      mode,
      sha256: createHash('sha256').update(bytes).digest('hex'),
    }));
  return {
    spec: `${lines.join('\n')}\n`,
    sources: files.map(({ bytes }) => bytes),
    packages: [
      ...(extras.length === 0
        ? []
        : [
            {
              role: 'common' as const,
              file: `${common.name}-${common.version}-${names.release}.noarch.rpm`,
              package: common.name,
              version: common.version,
              release: names.release,
              architecture: 'noarch',
              requires: [],
              files: plan(extras),
              links: [],
            },
          ]),
      {
        role: 'modules',
        file: names.file,
        package: names.name,
        version: names.version,
        release: names.release,
        architecture: arch,
        requires,
        files: plan(modules),
        links: [],
      },
      ...(debug.length === 0
        ? []
        : [
            {
              role: 'debug' as const,
              file: `${debugName}-${names.version}-${names.release}.${arch}.rpm`,
              package: debugName,
              version: names.version,
              release: names.release,
              architecture: arch,
              requires: [],
              files: plan(debug),
              links,
            },
          ]),
    ],
  };
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
  return tag('', line).slice(2).replace(/^#/, ' #');
}

/** A path in single quotes and in a list of files, where blanks and globs mean something. */
function path(of: string): string {
  if (!/^(\/[A-Za-z0-9._+:@,=~-]+)+$/.test(of)) {
    throw new Dkms2binError('module', `Not a path that an .rpm can hold: ${JSON.stringify(of)}`);
  }
  return of;
}

const octal = (mode: number): string => mode.toString(8).padStart(4, '0');

/** An administrator's changes to what lies in /etc outlive an upgrade. */
const fileLine = (file: SpecFile): string =>
  `%attr(${octal(file.mode)},root,root) ${file.path.startsWith('/etc/') ? '%config(noreplace) ' : ''}${path(file.path)}`;

/** The scriptlets, from cloud-init/package. */
async function scripts(form: RpmForm, variables: Record<string, string>): Promise<string[]> {
  const names = form === 'kmp' ? ['post', 'postun', 'posttrans'] : ['post', 'postun'];
  const all = await Promise.all(
    names.map(async (name) => {
      const file = join(PACKAGE_ROOT, 'cloud-init', 'package', `${form}-${name}.sh`);
      const script = (await readFile(file, 'utf8')).replaceAll(
        /@([A-Z]+)@/g,
        (_, each: string) => variables[each] ?? '',
      );
      return [`%${name}`, script.replaceAll('%', '%%')];
    }),
  );
  return all.flat();
}
