import { readdir, readFile } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { DEB_ARCH, type Arch } from '../core/cell.js';
import { Dkms2binError, messageOf } from '../core/errors.js';
import { PACKAGE_ROOT } from '../core/paths.js';

const Id = z.string().regex(/^[a-z0-9][a-z0-9.-]*$/, 'lower-case letters, digits, dots and dashes only');
const PackageName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9+._-]*$/, 'not a package name');
const PackageTemplate = z
  .string()
  .regex(/^[A-Za-z0-9{][A-Za-z0-9+._{}-]*$/, 'not a package name with {placeholders}');
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
  /** Armored public key, relative to the folder of the catalogue; absolute once loaded. */
  keyFile: z.string().min(1),
};

export const Signature = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('none') }),
  z.strictObject({ kind: z.literal('detached'), url: UrlTemplate, ...Key }),
  /** Without `url` the sums file itself is the clearsigned text. */
  z.strictObject({ kind: z.literal('clearsigned'), url: UrlTemplate.optional(), ...Key }),
]);
export type Signature = z.infer<typeof Signature>;

const Image = z.strictObject({
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
});

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
  arch: z.strictObject({ x86_64: ArchRow, aarch64: ArchRow.optional() }),
  packages: z.strictObject({
    image: PackageTemplate,
    headers: PackageTemplate,
    /** More packages of the same kernel, taken where they exist (`linux-modules-extra-{release}`). */
    extra: z.array(PackageTemplate).default([]),
  }),
  mirrors: z.strictObject({ main: UrlTemplate, security: UrlTemplate.optional() }),
  /** The release itself, then in order of preference updates, security, backports. */
  suites: z.array(Suite).default([]),
  components: z.array(z.string().regex(/^[a-z0-9-]+$/)).default([]),
  /** Where kernels go that left the live archive. */
  archive: z
    .strictObject({ kind: z.enum(['snapshot', 'launchpad', 'vault', 'koji']), url: UrlTemplate })
    .optional(),
  /** Packages of an image made from the distro's packages; lists in the list are flattened. Absent: cannot be made. */
  bootstrap: z
    .strictObject({
      includes: z
        .array(z.union([PackageName, z.array(PackageName)]))
        .min(1)
        .transform((list) => [...new Set(list.flat())]),
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

/** One distro release. Templates are filled in but for `packages`, which keep `{release}`. */
export type CatalogueRow = z.output<typeof RowInput> & {
  family: z.infer<typeof Family>;
  /** The catalogue file the row stands in, for errors. */
  file: string;
};
export type CatalogueArch = CatalogueRow['arch']['x86_64'];
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

/** Reads every `*.yaml` of `dir`. Throws fault `usage` naming file, row and field of each mistake. */
export async function loadCatalogue(dir = join(PACKAGE_ROOT, 'images')): Promise<CatalogueRow[]> {
  let names: string[];
  try {
    names = (await readdir(dir)).filter((name) => name.endsWith('.yaml')).sort();
  } catch (error) {
    throw new Dkms2binError('usage', `Cannot read the image catalogue ${dir}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (names.length === 0) throw new Dkms2binError('usage', `The image catalogue ${dir} holds no *.yaml file`);

  const mistakes: string[] = [];
  const rows: CatalogueRow[] = [];
  for (const name of names) {
    const file = join(dir, name);
    rows.push(...parseFile(file, await readFile(file, 'utf8'), dir, mistakes));
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
  if (mistakes.length > 0) {
    throw new Dkms2binError(
      'usage',
      `The image catalogue has mistakes:\n${mistakes.map((m) => `  ${m}`).join('\n')}`,
    );
  }
  return rows;
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

  for (const [arch, entry] of Object.entries(row.arch) as [Arch, CatalogueArch][]) {
    const values = { ...base, arch, debArch: DEB_ARCH[arch] };
    const at = `arch.${arch}.image`;
    const { image } = entry;
    image.url = url(`${at}.url`, image.url, values);
    image.sums.url = url(`${at}.sums.url`, image.sums.url, values);
    if (image.signature.kind !== 'none') {
      if (image.signature.url) image.signature.url = url(`${at}.signature.url`, image.signature.url, values);
      if (!isAbsolute(image.signature.keyFile)) image.signature.keyFile = join(dir, image.signature.keyFile);
    }
  }
  row.mirrors.main = url('mirrors.main', row.mirrors.main, base);
  if (row.mirrors.security) row.mirrors.security = url('mirrors.security', row.mirrors.security, base);
  if (row.archive) row.archive.url = url('archive.url', row.archive.url, base);
  row.suites.forEach((suite, index) => {
    suite.name = attempt(`suites.${index}.name`, () => fill(suite.name, base), suite.name);
    if (suite.mirror === 'security' && !row.mirrors.security) {
      mistake(`suites.${index}.mirror`, 'the row has no mirrors.security');
    }
  });
  // Tried with any release, so that a misspelt placeholder shows when the catalogue is read and not in a build.
  const probe = { ...base, arch: 'x86_64', debArch: 'amd64', release: '6.1.0-1-amd64' };
  for (const field of ['image', 'headers'] as const) {
    attempt(`packages.${field}`, () => fill(row.packages[field], probe), '');
  }
  row.packages.extra.forEach((template, i) =>
    attempt(`packages.extra.${i}`, () => fill(template, probe), ''),
  );
}
