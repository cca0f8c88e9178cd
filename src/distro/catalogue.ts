import { readdir, readFile } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { DEB_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { NAME_PROBE } from './packages.js';

const Id = z.string().regex(/^[a-z0-9][a-z0-9.-]*$/, 'lower-case letters, digits, dots and dashes only');
const PackageName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9+._-]*$/, 'not a package name');
const PackageTemplates = z.array(
  z.string().regex(/^[A-Za-z0-9{][A-Za-z0-9+._{}-]*$/, 'not a package name with {placeholders}'),
);
const Expression = z.string().refine((text) => {
  try {
    return new RegExp(text) instanceof RegExp;
  } catch {
    return false;
  }
}, 'not a regular expression');
const Template = z.string().min(1).regex(/^\S+$/, 'must hold no blanks');
const UrlTemplate = Template.regex(/^https?:\/\//, 'must be an http or https URL');
const Fingerprint = z
  .string()
  .regex(/^(?:[0-9A-F]{40}|[0-9A-F]{64})$/, 'a full fingerprint: 40 or 64 upper-case hex digits, no blanks');

/** The form of a sums file: GNU (`HEX  name`) by algorithm, BSD (`SHA256 (name) = HEX`), or JSON. */
export const SumsForm = z.enum(['sha512sums', 'sha256sums', 'bsd-checksum', 'json']);
export type SumsForm = z.infer<typeof SumsForm>;

const Key = {
  /** The primary key's full fingerprint: the pin. */
  keyFingerprint: Fingerprint,
  /** File with the public key, armored or not, relative to the folder of the catalogue; absolute once loaded. */
  keyFile: z.string().min(1).optional(),
  /** Where the public key can be had. What comes from there is held against the fingerprint, so any place will do. */
  keyUrl: UrlTemplate.optional(),
};

export const Signature = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('none') }),
  z.strictObject({ kind: z.literal('detached'), url: UrlTemplate, ...Key }),
  /** Without `url` the sums file itself is the clearsigned text. */
  z.strictObject({ kind: z.literal('clearsigned'), url: UrlTemplate.optional(), ...Key }),
]);
export type Signature = z.infer<typeof Signature>;

const Image = z.strictObject({
  /** A `*` in its last part stands for what only the sums file tells, such as a build's date. */
  url: UrlTemplate,
  sums: z.strictObject({ url: UrlTemplate, form: SumsForm }),
  signature: Signature,
  /** Pins the image: the sums file is then not asked. */
  digest: z
    .string()
    .regex(/^(?:sha512:[0-9a-f]{128}|sha256:[0-9a-f]{64})$/, 'sha512:… or sha256:… in lower-case hex')
    .optional(),
});

const ArchRow = z.strictObject({
  image: Image,
  firmware: z.enum(['bios', 'uefi']),
  /** The x86-64 level the distro's kernels and userland ask of the CPU. */
  cpuLevel: z.int().min(1).max(4).default(1),
  /** Package that brings the stock kernel. */
  defaultKernel: PackageName,
  /** Package that brings the small kernel for VMs, where there is one: bootstrapped images boot it. */
  cloudKernel: PackageName.optional(),
  /** Endings of kernel releases, `''` for distros without flavours. */
  kernelFlavours: z.array(z.string().regex(/^[a-z0-9-]*$/)).min(1),
  /** Where this architecture's packages lie, when it is another place than the row's. */
  mirrors: z.strictObject({ main: UrlTemplate, security: UrlTemplate.optional() }).optional(),
});

/** The packages of one kernel. dnf and zypper rows name them without a version; `src/distro/packages.ts` fills them in. */
const PackageSet = z.strictObject({
  /** The image; the first that exists is taken. */
  image: PackageTemplates.min(1),
  /** What must come with it. */
  modules: PackageTemplates.default([]),
  /** More of the same kernel, taken where they exist. */
  extra: PackageTemplates.default([]),
  /** What modules are built against, all of them. */
  headers: PackageTemplates.min(1),
});

/** A dnf or zypper repository: a folder that has `repodata/`. `{mirror}` is the row's main mirror or `--mirror`. */
const Repo = z.strictObject({
  name: Id,
  url: Template.regex(/^(?:https?:\/\/|\{mirror\})/, 'must begin with http, https or {mirror}'),
  /** The URL is that of a file whose first line is the repository's URL (Amazon). */
  mirrorList: z.boolean().default(false),
  /** False for a repository whose packages nobody signed. */
  signed: z.boolean().default(true),
  /** The key of repomd.xml.asc; absent where repomd.xml is not signed, or nobody knows by whom. `{mirror}` as in `url`. */
  key: z.strictObject({ ...Key, keyUrl: Template.optional() }).optional(),
});

/** A place where kernels go that left the live archive; `src/distro/archives.ts` has a policy for each kind. */
const Archive = z.discriminatedUnion('kind', [
  /** The API and dated archives of Debian's snapshot service. */
  z.strictObject({ kind: z.literal('snapshot'), url: UrlTemplate }),
  /** snapshot.ubuntu.com's dated archives; Launchpad's API tells the date. */
  z.strictObject({ kind: z.literal('ubuntu-snapshot'), url: UrlTemplate, api: UrlTemplate }),
  /** Launchpad's files by name. */
  z.strictObject({ kind: z.literal('launchpad'), url: UrlTemplate, api: UrlTemplate }),
  /** Repositories of former minor releases. `minors` are those to look in when the release does not say (`.el9_4`). */
  z.strictObject({
    kind: z.literal('vault'),
    repos: z.array(UrlTemplate).min(1),
    minors: z.array(z.string().regex(/^[\w.]+$/)).default([]),
  }),
  /** A Koji's folder `packages/`: unsigned files by name. `source` is the folder of the kernel's source package. */
  z.strictObject({ kind: z.literal('koji'), url: UrlTemplate, source: PackageName.default('kernel') }),
]);

const Suite = z.strictObject({
  name: Template,
  role: z.enum(['release', 'updates', 'security', 'backports']),
  /** Backports lie on the main mirror. */
  mirror: z.enum(['main', 'security']),
});

const RowInput = z.strictObject({
  id: Id,
  aliases: z.array(Id).default([]),
  /** The distro's domain: a template variable, so that URLs name their host once. */
  domain: z.string().regex(/^[a-z0-9.-]+(?::\d+)?$/, 'not a domain'),
  codename: Id,
  version: z.string().regex(/^[A-Za-z0-9.]+$/, 'quote it: a string such as "12"'),
  packageManager: z.enum(['apt', 'dnf', 'zypper']),
  /** The user the image is known for; runs define their own. */
  user: z.string().regex(/^[a-z_][a-z0-9_-]*$/),
  arch: z.strictObject({
    x86_64: ArchRow,
    // The VMs that it is for have no BIOS.
    aarch64: ArchRow.extend({ firmware: z.literal('uefi') }).optional(),
  }),
  /** Tells the row's kernel releases from those of its family's other rows. */
  releases: Expression.optional(),
  packages: PackageSet.extend({
    /** Kernels whose packages have other names: the first whose `match` fits the release. */
    variants: z
      .array(
        PackageSet.extend({
          match: Expression,
          /** What `uname -r` says after the package's version: `+rt`. */
          suffix: z
            .string()
            .regex(/^\+[a-z0-9]+$/)
            .default(''),
        }),
      )
      .default([]),
  }),
  mirrors: z.strictObject({
    main: UrlTemplate,
    security: UrlTemplate.optional(),
    /** Where apt suites go that the main mirror has no more. */
    old: UrlTemplate.optional(),
  }),
  /** Keyring of the apt archive on this host; Debian's own by default. */
  keyring: z.string().regex(/^\//).optional(),
  /** The release itself, then in order of preference updates, security, backports. */
  suites: z.array(Suite).default([]),
  /** Suite of the main mirror where what is to come to this release waits; not used but for `refresh --validate`. */
  proposed: Template.optional(),
  /** Id of the release that follows this one. */
  next: Id.optional(),
  components: z.array(z.string().regex(/^[a-z0-9-]+$/)).default([]),
  /** Of dnf and zypper rows: where kernels and their headers are. */
  repos: z.array(Repo).default([]),
  /** Of dnf rows whose dkms is in EPEL. */
  epel: z
    .strictObject({
      /** Package that brings EPEL's repository. */
      package: PackageName,
      /** The image's own repository that EPEL's packages need besides, and that is off by default: its name there. */
      needs: z.string().regex(/^[a-z0-9_-]+$/),
      /** Where the package and that repository are, for a guest that is not to use those of its image. */
      repos: z.array(Repo).default([]),
    })
    .optional(),
  /** Asked in this order for kernels that left the live archive. */
  archives: z.array(Archive).default([]),
  /** Packages of an image made from the distro's packages; lists in the list are flattened. Absent: cannot be made. */
  bootstrap: z
    .strictObject({
      includes: z
        .array(z.union([PackageName, z.array(PackageName)]))
        .min(1)
        .transform((list) => [...new Set(list.flat())]),
      /** Those of them that an image for a machine without a toolchain leaves out. */
      toolchain: z.array(PackageName).default([]),
    })
    .optional(),
  seed: z
    .strictObject({ quirks: z.array(z.enum(['no-network-config', 'cloud-init-0.7', 'no-datasource-list'])) })
    .default({ quirks: [] }),
});

const Family = z.enum([
  'debian',
  'ubuntu',
  'centos',
  'rocky',
  'alma',
  'fedora',
  'opensuse',
  'amazon',
  'oracle',
]);

const FileHead = z.strictObject({
  family: Family,
  /** A place for YAML anchors; its values are not read. */
  anchors: z.record(z.string(), z.unknown()).optional(),
  rows: z.array(z.unknown()).min(1),
});
const CatalogueFile = FileHead.extend({ rows: z.array(RowInput).min(1) });

/** One distro release. Templates are filled in but for `packages`, `repos` and vaults, which a kernel or its architecture fills. */
export type CatalogueRow = z.output<typeof RowInput> & {
  family: z.infer<typeof Family>;
  /** The catalogue file the row stands in, for errors. */
  file: string;
};
export type CatalogueArch = CatalogueRow['arch'][Arch];
export type CatalogueSuite = CatalogueRow['suites'][number];

/** JSON Schema of an `images/*.yaml` file, for editors and for `schema/`. */
export function catalogueJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(CatalogueFile, { io: 'input' }), title: 'dkms2bin image catalogue' };
}

/** Fills `{name}`s; throws on a name that `values` lacks. */
export function fill(template: string, values: Readonly<Record<string, string>>): string {
  return template.replace(/\{([^{}]*)\}/g, (_whole, name: string) => {
    const value = Object.hasOwn(values, name) ? values[name] : undefined;
    if (value === undefined) throw new Error(`unknown placeholder {${name}} in ${template}`);
    return value;
  });
}

/** The catalogue that comes along, and a folder of the user's own rows. */
function catalogueDirs(): string[] {
  const own = process.env.DKMS2BIN_CATALOGUE;
  return [join(PACKAGE_ROOT, 'images'), ...(own ? [own] : [])];
}

/** Reads every `*.yaml` of the folders. Throws fault `usage` naming file, row and field of each mistake. */
export async function loadCatalogue(...dirs: string[]): Promise<CatalogueRow[]> {
  const mistakes: string[] = [];
  const rows: CatalogueRow[] = [];
  for (const dir of dirs.length > 0 ? dirs : catalogueDirs()) {
    for (const name of await catalogueFiles(dir)) {
      const file = join(dir, name);
      rows.push(...parseFile(file, await readFile(file, 'utf8'), dir, mistakes));
    }
  }
  const owner = new Map<string, CatalogueRow>();
  for (const row of rows) {
    for (const [field, word] of [
      ['id', row.id],
      ...row.aliases.map((alias) => ['aliases', alias]),
    ] as const) {
      const other = owner.get(word);
      if (other)
        mistakes.push(
          `${row.file}: row ${row.id}: ${field}: ${word} already names ${other.id} of ${other.file}`,
        );
      else owner.set(word, row);
    }
  }
  for (const { file, id, next } of rows) {
    if (next !== undefined && !rows.some((row) => row.id === next))
      mistakes.push(`${file}: row ${id}: next: there is no row ${next}`);
  }
  if (mistakes.length > 0) {
    throw new Dkms2binError(
      'usage',
      `The image catalogue has mistakes:\n${mistakes.map((m) => `  ${m}`).join('\n')}`,
    );
  }
  return rows;
}

async function catalogueFiles(dir: string): Promise<string[]> {
  let names: string[];
  try {
    names = (await readdir(dir)).filter((name) => name.endsWith('.yaml')).sort();
  } catch (error) {
    throw new Dkms2binError('usage', `Cannot read the image catalogue ${dir}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (names.length === 0) throw new Dkms2binError('usage', `The image catalogue ${dir} holds no *.yaml file`);
  return names;
}

/** The row of an id or alias. Throws fault `usage` listing the ids. */
export function findRow(rows: readonly CatalogueRow[], name: string): CatalogueRow {
  const row = rows.find((r) => r.id === name || r.aliases.includes(name));
  if (row) return row;
  throw new Dkms2binError('usage', `No distro ${name} in the image catalogue`, {
    hint: `Known: ${rows.map((r) => [r.id, ...r.aliases].join(' = ')).join(', ')}`,
  });
}

function parseFile(file: string, text: string, dir: string, mistakes: string[]): CatalogueRow[] {
  const document = parseDocument(text, { merge: true, prettyErrors: true });
  if (document.errors.length > 0) {
    mistakes.push(...document.errors.map((error) => `${file}: ${error.message.trim()}`));
    return [];
  }
  let content: unknown;
  try {
    content = document.toJS({ maxAliasCount: 1000 });
  } catch (error) {
    mistakes.push(`${file}: ${messageOf(error)}`);
    return [];
  }
  const head = FileHead.safeParse(content);
  if (!head.success) {
    mistakes.push(...issues(head.error).map((issue) => `${file}: ${issue}`));
    return [];
  }
  const rows: CatalogueRow[] = [];
  head.data.rows.forEach((raw, index) => {
    const id = (raw as { id?: unknown } | null)?.id;
    const where = `${file}: row ${typeof id === 'string' ? id : `#${index + 1}`}`;
    const parsed = RowInput.safeParse(raw);
    if (!parsed.success) {
      mistakes.push(...issues(parsed.error).map((issue) => `${where}: ${issue}`));
      return;
    }
    const row = { ...parsed.data, family: head.data.family, file };
    const before = mistakes.length;
    resolveRow(row, dir, (field, message) => mistakes.push(`${where}: ${field}: ${message}`));
    if (mistakes.length === before) rows.push(row);
  });
  return rows;
}

function issues(error: z.ZodError): string[] {
  return error.issues.map((issue) => {
    const field = issue.path.map(String).join('.');
    return field ? `${field}: ${issue.message}` : issue.message;
  });
}

/** Fills the row's templates in place. Fresh objects come from zod, so shared YAML anchors stay untouched. */
function resolveRow(row: CatalogueRow, dir: string, mistake: (field: string, message: string) => void): void {
  const base = { domain: row.domain, codename: row.codename, version: row.version };
  const attempt = <T>(field: string, work: () => T, otherwise: T): T => {
    try {
      return work();
    } catch (error) {
      mistake(field, messageOf(error));
      return otherwise;
    }
  };
  const url = (field: string, template: string, values: Record<string, string>): string =>
    attempt(
      field,
      () => {
        const filled = fill(template, values);
        if (!URL.canParse(filled)) throw new Error(`not a URL: ${filled}`);
        return filled;
      },
      template,
    );

  for (const [arch, entry] of Object.entries(row.arch) as [Arch, CatalogueArch | undefined][]) {
    if (!entry) continue;
    const values = { ...base, arch, debArch: DEB_ARCH[arch] };
    const at = `arch.${arch}`;
    const { image, mirrors } = entry;
    image.url = url(`${at}.image.url`, image.url, values);
    if (/\*/.test(image.url.replace(/[^/]*$/, '')) || (image.url.match(/\*/g) ?? []).length > 1)
      mistake(`${at}.image.url`, 'one * at most, in the last part');
    image.sums.url = url(`${at}.image.sums.url`, image.sums.url, values);
    const { signature } = image;
    if (signature.kind !== 'none') {
      if (signature.url) signature.url = url(`${at}.image.signature.url`, signature.url, values);
      if (signature.keyUrl) signature.keyUrl = url(`${at}.image.signature.keyUrl`, signature.keyUrl, values);
      if (signature.keyFile && !isAbsolute(signature.keyFile))
        signature.keyFile = join(dir, signature.keyFile);
      if (!signature.keyFile && !signature.keyUrl)
        mistake(`${at}.image.signature`, 'keyFile or keyUrl is missing');
    }
    if (mirrors) mirrors.main = url(`${at}.mirrors.main`, mirrors.main, values);
    if (mirrors?.security) mirrors.security = url(`${at}.mirrors.security`, mirrors.security, values);
  }
  const { mirrors } = row;
  mirrors.main = url('mirrors.main', mirrors.main, base);
  if (mirrors.security) mirrors.security = url('mirrors.security', mirrors.security, base);
  if (mirrors.old) mirrors.old = url('mirrors.old', mirrors.old, base);
  row.suites.forEach((suite, index) => {
    suite.name = attempt(`suites.${index}.name`, () => fill(suite.name, base), suite.name);
    if (suite.mirror === 'security' && !mirrors.security) {
      mistake(`suites.${index}.mirror`, 'the row has no mirrors.security');
    }
  });
  const { proposed } = row;
  if (proposed !== undefined) row.proposed = attempt('proposed', () => fill(proposed, base), proposed);
  if (row.packageManager === 'apt' ? row.suites.length === 0 : row.repos.length === 0)
    mistake(
      row.packageManager === 'apt' ? 'suites' : 'repos',
      'must not be empty: kernels could not be listed',
    );
  const later = { mirror: '{mirror}', arch: '{arch}', minor: '{minor}' };
  row.epel?.repos.forEach((repo, i) => {
    repo.url = attempt(`epel.repos.${i}.url`, () => fill(repo.url, { ...base, ...later }), repo.url);
  });
  row.repos.forEach((repo, i) => {
    repo.url = attempt(`repos.${i}.url`, () => fill(repo.url, { ...base, ...later }), repo.url);
    const { key } = repo;
    if (key?.keyUrl)
      key.keyUrl = attempt(`repos.${i}.key`, () => fill(key.keyUrl!, { ...base, ...later }), '');
    if (key?.keyFile && !isAbsolute(key.keyFile)) key.keyFile = join(dir, key.keyFile);
    if (key && !key.keyFile && !key.keyUrl) mistake(`repos.${i}.key`, 'keyFile or keyUrl is missing');
  });
  row.archives.forEach((archive, i) => {
    if (archive.kind === 'vault') {
      archive.repos = archive.repos.map((each) =>
        attempt(`archives.${i}.repos`, () => fill(each, { ...base, ...later }), each),
      );
    } else archive.url = url(`archives.${i}.url`, archive.url, base);
  });
  // Tried with some release, so that a misspelt placeholder shows when the catalogue is read and not in a build.
  for (const set of [row.packages, ...row.packages.variants]) {
    for (const field of ['image', 'modules', 'extra', 'headers'] as const)
      for (const template of set[field]) attempt(`packages.${field}`, () => fill(template, NAME_PROBE), '');
  }
}
