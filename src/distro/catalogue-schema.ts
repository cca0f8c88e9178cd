import { z } from 'zod';
import type { Arch } from '../model/cell.js';
import { Expression, Fingerprint, Id, PackageName, PackageSet, Template, UrlTemplate } from './forms.js';
import { FilesArchive, OverlayInput } from './overlay-schema.js';
import type { KernelSource } from './row.js';

/** The form of a sums file: GNU (`HEX  name`) by algorithm, BSD (`SHA256 (name) = HEX`), or JSON. */
export const SumsForm = z.enum(['sha512sums', 'sha256sums', 'bsd-checksum', 'json']);
export type SumsForm = z.infer<typeof SumsForm>;

const Key = {
  /** The primary key's full fingerprint: the pin. */
  keyFingerprint: Fingerprint,
  /** File with the public key, armored or not, relative to the folder of the catalogue; absolute once loaded. */
  keyFile: z.string().min(1).optional(),
  /** Where to get the public key. It is checked against the fingerprint, so the place need not be trusted. */
  keyUrl: UrlTemplate.optional(),
};

const Signature = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('none') }),
  z.strictObject({ kind: z.literal('detached'), url: UrlTemplate, ...Key }),
  /** Without `url` the sums file itself is the clearsigned text. */
  z.strictObject({ kind: z.literal('clearsigned'), url: UrlTemplate.optional(), ...Key }),
]);

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
  FilesArchive,
]);

const Suite = z.strictObject({
  name: Template,
  role: z.enum(['release', 'updates', 'security', 'backports']),
  /** Backports lie on the main mirror. */
  mirror: z.enum(['main', 'security']),
});

export const RowInput = z.strictObject({
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
  /** Of apt rows: the packages that build a module. A machine that builds none is without them. */
  toolchain: z.array(PackageName).default([]),
  /**
   * Packages of an image made from the distro's packages, without toolchain and kernel; lists in the list are flattened. Absent:
   * cannot be made.
   */
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

/** A place for YAML anchors; its values are not read. */
const anchors = z.record(z.string(), z.unknown()).optional();

/** A catalogue file with rows that are not checked yet, so that each row's mistakes can be told. */
export const FileHead = z.strictObject({ family: Family, anchors, rows: z.array(z.unknown()).min(1) });

/** A catalogue file with repositories of kernels on top of rows, checked one by one. */
export const OverlayFileHead = z.strictObject({ anchors, overlays: z.array(z.unknown()).min(1) });
export { OverlayInput };

/** One distro release. Templates are filled in but for `packages`, `repos` and vaults, which a kernel or its architecture fills. */
export type CatalogueRow = z.output<typeof RowInput> & {
  family: z.infer<typeof Family>;
  /** The catalogue file the row stands in, for errors. */
  file: string;
  /** Of a row whose kernels come from a repository on top of another row. */
  overlay?: KernelSource;
};
export type CatalogueArch = NonNullable<CatalogueRow['arch'][Arch]>;
