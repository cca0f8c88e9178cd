import { mkdir, readFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseDocument } from 'yaml';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { parseParagraphs, type Paragraph } from '../formats/deb822.js';
import { fingerprintOf } from '../formats/openpgp.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { cacheDir } from '../lib/paths.js';
import type { CatalogueRow } from './catalogue-schema.js';
import { OverlayInput } from './overlay-schema.js';
import type { Overlay } from './overlays.js';
import { unknownDistro } from './row.js';

/** Every kernel that a house may build, in Debian's form and in others; what is a release is told by the packages' names. */
const ANY_RELEASE = String.raw`^\d(?!.*-(?:dbg|dbgsym|unsigned|signed|template|common)$)[\d.]*(?:-[\d.]+)*[-+~.]?(?<flavour>.*)$`;
const APT_NAMES = {
  image: ['linux-image-{release}', 'linux-image-{release}-unsigned', 'linux-image-unsigned-{release}'],
  headers: ['linux-headers-{release}'],
};
const DNF_NAMES = { image: ['kernel-core', 'kernel'], headers: ['kernel-devel'] };

/** What a repository is asked for with. */
export interface RepoOptions {
  /** Where relative paths begin. */
  cwd: string;
  /** The distro that it goes on top of, where the file does not say. */
  distro?: string | undefined;
}

const refused = (file: string, why: string, hint?: string): Dkms2binError =>
  new Dkms2binError('usage', `--kernel-repo ${file}: ${why}`, hint === undefined ? {} : { hint });

/**
 * The repositories of kernels that a file describes: a deb822 file of apt (`.sources`), a `.repo` of dnf, a catalogue file with
 * `overlays`, or a config file with `kernels`, which are beside the catalogue's own and so not `asked`. Throws fault `usage` naming
 * what is wrong in it.
 */
export async function readKernelRepo(
  file: string,
  options: RepoOptions,
  rows: readonly CatalogueRow[],
): Promise<Overlay[]> {
  const path = resolve(options.cwd, file);
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw refused(file, messageOf(error), 'Give the path of a .sources, .repo or .yaml file.');
  });
  if (/\.ya?ml$/.test(file)) return yamlOverlays(file, path, text);
  const about = file.endsWith('.repo')
    ? await ofDnf(file, path, text)
    : await ofApt(file, path, parseParagraphs(text));
  const name = basename(file)
    .toLowerCase()
    .replace(/\.[a-z]+$/, '')
    .replace(/[^a-z0-9.-]+/g, '-')
    .replace(/^[.-]+/, '');
  const on = baseOf(file, about, options, rows);
  const { codename: _, ...input } = about;
  return [{ overlay: { ...input, id: name, on: [on.id] }, file: path, dir: dirname(path), asked: true }];
}

type About = Omit<OverlayInput, 'id' | 'on'> & { codename: string };

/** The row that a repository goes on top of: `--distro`, or the one whose codename its suite has. */
function baseOf(
  file: string,
  { codename, repositories }: About,
  { distro }: RepoOptions,
  rows: readonly CatalogueRow[],
): CatalogueRow {
  const form = repositories.some(({ suite }) => suite !== undefined) ? 'apt' : 'dnf';
  const fitting = rows.filter(({ overlay, packageManager }) => !overlay && packageManager === form);
  if (distro === undefined) {
    const named = fitting.filter((row) => row.codename === codename);
    if (named[0] && named.length === 1) return named[0];
    throw refused(
      file,
      'it does not say which distro its kernels are for',
      'Name the distro with --distro, such as debian-12.',
    );
  }
  const row = rows.find(({ id, aliases }) => id === distro || aliases.includes(distro));
  if (!row) throw unknownDistro(distro, rows);
  const base = row.overlay ? rows.find(({ id }) => id === row.overlay?.on) : row;
  if (base && fitting.includes(base)) return base;
  throw refused(file, `${row.id} takes no repositories of ${form}`);
}

/** What is the same for all of them. */
const common = {
  aliases: [],
  arches: ['x86_64' as const, 'aarch64' as const],
  releases: ANY_RELEASE,
  defaultKernel: undefined,
  archives: [],
};

async function ofApt(file: string, path: string, paragraphs: readonly Paragraph[]): Promise<About> {
  const used = paragraphs.filter(
    (each) =>
      !/^(?:no|false|0|off)$/i.test(each.get('Enabled') ?? '') && /\bdeb\b/.test(each.get('Types') ?? ''),
  );
  const [first] = used;
  if (!first)
    throw refused(
      file,
      'no repository in it',
      'It is a deb822 file of apt: Types: deb, URIs, Suites, Components, Signed-By.',
    );
  const words = (each: Paragraph, key: string): string[] =>
    (each.get(key) ?? '').split(/\s+/).filter(Boolean);
  const repositories = used.flatMap((each) =>
    words(each, 'URIs').flatMap((url) =>
      words(each, 'Suites').map((suite) => ({ url, suite, components: words(each, 'Components') })),
    ),
  );
  const signer = first.get('Signed-By')?.trim() ?? '';
  const isTrusted = /^(?:yes|true|1|on)$/i.test(first.get('Trusted') ?? '');
  if (signer === '' && !isTrusted)
    throw refused(
      file,
      'no Signed-By: nobody would vouch for its kernels',
      "Name the key's file there, put the key itself there, or write Trusted: yes.",
    );
  const inline = signer.startsWith('-----BEGIN') ? signer.replace(/^\.$/gm, '') : undefined;
  const key =
    signer === ''
      ? undefined
      : await keyOfFile(file, inline ?? resolve(dirname(path), signer), inline !== undefined);
  return check(file, {
    ...common,
    repositories,
    key,
    packages: apt(),
    codename: repositories[0]?.suite.replace(/-.*/, '') ?? '',
  });
}

const apt = (): About['packages'] => ({ ...APT_NAMES, modules: [], extra: [], variants: [] });

async function ofDnf(file: string, path: string, text: string): Promise<About> {
  const repositories: About['repositories'] = [];
  let key: About['key'];
  let isChecked = true;
  for (const section of text.split(/^\[/m).slice(1)) {
    const get = (name: string): string =>
      new RegExp(`^\\s*${name}\\s*=\\s*(.*)$`, 'm').exec(section)?.[1]?.trim() ?? '';
    if (get('enabled') === '0') continue;
    const url = get('baseurl').split(/\s+/)[0] ?? '';
    repositories.push({
      url: url.replaceAll('$basearch', '{arch}').replaceAll('$releasever', '{version}'),
      components: [],
    });
    isChecked &&= get('gpgcheck') !== '0';
    const keyFile = get('gpgkey');
    if (keyFile === '' || key) continue;
    if (/^https?:/.test(keyFile))
      throw refused(
        file,
        `its key is at ${keyFile}`,
        'Download the key, look at its fingerprint, and name its file as gpgkey.',
      );
    key = await keyOfFile(
      file,
      keyFile.startsWith('file:') ? fileURLToPath(keyFile) : resolve(dirname(path), keyFile),
      false,
    );
  }
  if (!key && isChecked)
    throw refused(
      file,
      'no gpgkey: nobody would vouch for its kernels',
      "Name the key's file there, or write gpgcheck=0.",
    );
  const packages = {
    ...DNF_NAMES,
    modules: [],
    extra: ['kernel-modules', 'kernel-modules-core', 'kernel-modules-extra'],
    variants: [],
  };
  return check(file, { ...common, repositories, key, packages, codename: '' });
}

/** The key of a file or of a text, pinned by its own fingerprint. */
async function keyOfFile(file: string, from: string, isText: boolean): Promise<NonNullable<About['key']>> {
  const bytes = isText
    ? Buffer.from(from)
    : await readFile(from).catch((error: unknown) => {
        throw refused(file, `its key cannot be read: ${messageOf(error)}`);
      });
  const keyFingerprint = await fingerprintOf(bytes, `--kernel-repo ${file}: its key`);
  if (!isText) return { keyFingerprint, keyFile: from };
  const keyFile = join(cacheDir(), 'keys', `${keyFingerprint}.key`);
  await mkdir(dirname(keyFile), { recursive: true });
  await writeAtomic(bytes, keyFile);
  return { keyFingerprint, keyFile };
}

/** Through the catalogue's own form: URLs and suites come from outside. */
function check(file: string, { codename, ...about }: About): About {
  const parsed = OverlayInput.safeParse({ ...about, id: 'x', on: ['x'] });
  if (parsed.success) return { ...about, codename };
  const [issue] = parsed.error.issues;
  throw refused(file, `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not in order'}`);
}

function yamlOverlays(file: string, path: string, text: string): Overlay[] {
  const document = parseDocument(text, { merge: true });
  let content: unknown;
  try {
    content = document.errors[0] ? undefined : document.toJS({ maxAliasCount: 1000 });
  } catch (error) {
    throw refused(file, messageOf(error));
  }
  if (document.errors[0]) throw refused(file, document.errors[0].message.trim());
  const { overlays, kernels } = (content ?? {}) as { overlays?: unknown; kernels?: unknown };
  const listed = overlays ?? kernels;
  if (!Array.isArray(listed) || listed.length === 0)
    throw refused(file, 'no overlays in it', 'Its form is that of images/kernels.yaml.');
  return listed.map((each: unknown, at) => {
    const parsed = OverlayInput.safeParse(each);
    const of = { file: path, dir: dirname(path), ...(overlays !== undefined && { asked: true as const }) };
    if (parsed.success) return { overlay: parsed.data, ...of };
    const [issue] = parsed.error.issues;
    const why = `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not in order'}`;
    throw overlays === undefined
      ? new Dkms2binError('usage', `${file}: kernels.${at}.${why}`, {
          hint: 'Its form is that of images/kernels.yaml.',
        })
      : refused(file, why);
  });
}
