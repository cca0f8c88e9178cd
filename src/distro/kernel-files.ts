import { open } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { DEB_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { inFile, Unreadable } from '../formats/bytes.js';
import { readDebHeader } from '../formats/deb.js';
import { readRpmHeader } from '../formats/rpm-header.js';
import { runChunksConfined } from '../lib/sandbox.js';
import { parseParagraph } from '../formats/deb822.js';
import { checkRelease } from './release.js';

/** A package with a part of a kernel, as a package manager asks for it, and what it needs of other parts. */
interface KernelFile {
  /** As it was given. */
  file: string;
  form: 'deb' | 'rpm';
  name: string;
  version: string;
  /** The architecture by the package manager's name; `all` or `noarch` fits each. */
  arch: string;
  /** Kernel releases that it has the image of, the modules, what modules are built against. */
  image: string | undefined;
  modules: string | undefined;
  headers: string | undefined;
  /** Names that it depends on. */
  needs: string[];
}

/** A kernel that files bring. */
export interface FilesKernel {
  release: string;
  packageVersion: string;
  form: 'deb' | 'rpm';
  /** What the packages of image and headers are called; the latter may be among the distro's. */
  packages: { image: string; headers?: string };
  /** Packages of this kernel that are not among the files. */
  missing: string[];
}

const IMAGE = /^\.?\/(?:boot\/vmlinu[xz]-([^/]+)|(?:usr\/)?lib\/modules\/([^/]+)\/vmlinu[xz])$/;
const MODULES = /^\.?\/(?:usr\/)?lib\/modules\/([^/]+)\/kernel\//;
const HEADERS = /^\.?\/(?:usr\/)?lib\/modules\/([^/]+)\/build$|^\.?\/usr\/src\/kernels\/([^/]+)\/Makefile$/;

/** What a file's package says and brings. Throws fault `usage` for what is no package of apt or dnf. */
async function readKernelFile(file: string, cwd: string, signal?: AbortSignal): Promise<KernelFile> {
  const path = resolve(cwd, file);
  const refuse = (why: string): Dkms2binError =>
    new Dkms2binError('usage', `--kernel-package ${file}: ${why}`, {
      hint: 'Give .deb or .rpm files of a kernel: its image, its modules where they are apart, and its headers.',
    });
  const handle = await open(path).catch((error: unknown) => {
    throw new Dkms2binError('usage', `--kernel-package ${file}: no such file, or it cannot be read`, {
      hint: 'Check its path and permissions.',
      cause: error,
    });
  });
  try {
    const source = inFile(handle, (await handle.stat()).size);
    const form = file.endsWith('.rpm') ? 'rpm' : 'deb';
    if (form === 'rpm') {
      const { name, version, release, arch, files, relations } = await readRpmHeader(source);
      const needs = relations.requires.map((each) => each.name);
      const paths = files.map((each) => each.path);
      return { ...{ file, form, name, version: `${version}-${release}`, arch, needs }, ...partsOf(paths) };
    }
    const header = await readDebHeader(source);
    const fields = parseParagraph(header.fields.map(({ text }) => text).join('\n'));
    const needs = ['Pre-Depends', 'Depends'].flatMap((key) =>
      (fields.get(key) ?? '').split(',').map((each) => /^[^\s(:|]*/.exec(each.trim())?.[0] ?? ''),
    );
    const { name, version, architecture: arch } = header;
    return { ...{ file, form, name, version, arch, needs }, ...partsOf(await debPaths(path, signal)) };
  } catch (error) {
    if (error instanceof Unreadable) throw refuse(error.message);
    throw error;
  } finally {
    await handle.close();
  }
}

/** Paths of a .deb's content. */
async function debPaths(path: string, signal?: AbortSignal): Promise<string[]> {
  let text = '';
  await runChunksConfined({ readable: [path] }, ['dpkg-deb', '--contents', path], {
    maxBytes: 256 << 20,
    onChunk: (chunk) => void (text += chunk.toString('utf8')),
    fault: 'usage',
    timeout: 600_000,
    ...(signal && { cancelSignal: signal }),
  });
  return text.split('\n').map((line) => (/\s(\.?\/.*)$/.exec(line)?.[1] ?? '').replace(/ -> .*$/, ''));
}

function partsOf(paths: readonly string[]): Pick<KernelFile, 'image' | 'modules' | 'headers'> {
  const first = (form: RegExp): string | undefined => {
    for (const path of paths) {
      const match = form.exec(path);
      if (match) return match[1] ?? match[2];
    }
    return undefined;
  };
  return { image: first(IMAGE), modules: first(MODULES), headers: first(HEADERS) };
}

/**
 * The kernels that `--kernel-package` files bring, by what is in them and not by their names; packages of no kernel are passed over.
 * Throws fault `usage` when there is no image, or one for another architecture.
 */
export async function kernelsOfFiles(
  files: readonly string[],
  { arch, cwd, signal }: { arch: Arch; cwd: string; signal?: AbortSignal },
): Promise<FilesKernel[]> {
  const parts: KernelFile[] = [];
  for (const file of files) parts.push(await readKernelFile(file, cwd, signal));
  const images = parts.filter(
    ({ image, name }) => image !== undefined && !/-(?:dbg|dbgsym|debuginfo)$/.test(name),
  );
  for (const { file, form, arch: own } of images) {
    const wanted = form === 'rpm' ? arch : DEB_ARCH[arch];
    if (own === wanted) continue;
    throw new Dkms2binError('usage', `${file} is for ${own}, not for ${wanted}`, {
      hint: 'Name the architecture with --arch.',
    });
  }
  if (images.length > 0) return images.map((image) => kernelOf(image, parts));
  throw new Dkms2binError('usage', 'None of the --kernel-package files is a kernel image', {
    hint: `One must hold boot/vmlinuz-RELEASE; these are ${parts.map(whatIs).join(', ')}. Give the headers and the other packages too.`,
  });
}

function whatIs({ file, image, headers, modules }: KernelFile): string {
  const [what] = [
    ...(image === undefined ? [] : ['debug symbols']),
    ...(headers === undefined ? [] : ['headers']),
    ...(modules === undefined ? [] : ['modules']),
  ];
  return what === undefined ? basename(file) : `${basename(file)} (${what})`;
}

function kernelOf(image: KernelFile, parts: readonly KernelFile[]): FilesKernel {
  const release = checkRelease(image.image ?? '');
  const headers = parts.find((each) => each.headers === release);
  const modules = parts.find((each) => each.modules === release);
  const given = new Set(parts.map(({ name }) => name));
  // What is of this kernel by its name, and needed by what was given.
  const number = /^\d+\.\d+/.exec(release)?.[0] ?? release;
  const needed = [image, ...(modules ? [modules] : []), ...(headers ? [headers] : [])].flatMap(
    ({ needs }) => needs,
  );
  const missing = needed.filter(
    (name) => name.includes(number) && /(?:kernel|linux|headers|modules)-/.test(name) && !given.has(name),
  );
  if (!headers) missing.push(headersName(image, release));
  if (!modules && !missing.some((name) => name.includes('modules')))
    missing.push(modulesName(image, release));
  return {
    ...{ release, packageVersion: image.version, form: image.form },
    packages: { image: idOf(image), ...(headers && { headers: idOf(headers) }) },
    missing: [...new Set(missing)],
  };
}

/** As the package manager's script takes it. */
const idOf = ({ form, name, version, arch }: KernelFile): string =>
  form === 'rpm' ? `${name}-${version}.${arch}` : name;

/** What the headers that belong to an image are called. */
function headersName({ form, name, version, arch }: KernelFile, release: string): string {
  if (form === 'rpm') return `${name.replace(/-core$/, '')}-devel-${version}.${arch}`;
  const [, maker = 'linux'] = /^(proxmox|pve)-kernel-/.exec(name) ?? [];
  return `${maker}-headers-${release}`;
}

const modulesName = ({ form, name, version, arch }: KernelFile, release: string): string =>
  form === 'rpm' ? `${name.replace(/-core$/, '')}-modules-${version}.${arch}` : `linux-modules-${release}`;

/** The error for files of a kernel that no distro names so, and so has nothing to add to. */
export const incomplete = ({ release, missing }: FilesKernel): Dkms2binError =>
  new Dkms2binError(
    'usage',
    `Of the kernel ${release} the --kernel-package files lack ${missing.join(', ')}`,
    {
      hint: 'Give them too: no distro of the catalogue has them.',
    },
  );
