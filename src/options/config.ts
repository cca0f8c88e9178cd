import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isMap, isScalar, isSeq, LineCounter, parseDocument, type Node } from 'yaml';
import { z } from 'zod';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { globExpression } from '../lib/glob.js';

export const CONFIG_NAME = 'dkms2bin.yaml';

const Texts = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]);
const Duration = z.union([
  z.int().positive(),
  z.string().regex(/^[1-9]\d*(?:s|m|h)?$/, 'seconds, or a number with s, m or h'),
]);
const Memory = z.union([
  z.int().positive(),
  z.string().regex(/^[1-9]\d*(?:\.\d+)?[MG]?$/, 'megabytes, or a number with M or G'),
]);

const Glob = z
  .string()
  .min(1)
  .refine((text) => {
    try {
      return globExpression(text) !== null;
    } catch {
      return false;
    }
  }, 'not a pattern');
const Place = {
  module: Glob.optional().describe(
    "Pattern of modules: a source as it is named, a path's last part, or a module's name",
  ),
  kernel: Glob.optional().describe('Pattern of kernel releases'),
  distro: Glob.optional().describe('Pattern of catalogue ids'),
};
const somewhere = (place: { module?: unknown; kernel?: unknown; distro?: unknown }): boolean =>
  place.module !== undefined || place.kernel !== undefined || place.distro !== undefined;
const NOWHERE = 'says neither module nor kernel nor distro';

/** What `dkms2bin matrix` builds. What it leaves out is what the rest of the file says. */
export const Matrix = z.strictObject({
  modules: Texts.optional().describe('DKMS packages, as in dkms (default: those)'),
  kernels: Texts.optional().describe('Kernels, as in kernel (default: those)'),
  distros: Texts.optional().describe('Catalogue ids; every kernel of kernels is looked for in each'),
  include: z
    .array(
      z.strictObject({
        module: z.string().min(1).describe('A DKMS package'),
        kernel: z.string().min(1).describe('Kernel releases: exact, a pattern, or latest'),
        distro: z.string().min(1).optional().describe('Catalogue id'),
      }),
    )
    .optional()
    .describe('Cells beside those of modules × kernels'),
  exclude: z
    .array(z.strictObject(Place).refine(somewhere, NOWHERE))
    .optional()
    .describe('Cells of modules × kernels that are left out'),
  'expect-failure': z
    .array(
      z
        .strictObject({ ...Place, reason: z.string().min(1).describe('Why, for the reports') })
        .refine(somewhere, NOWHERE),
    )
    .optional()
    .describe('Cells that are known to fail; one that is built all the same fails the matrix'),
  'fail-fast': z.boolean().optional().describe('Stop at the first failure'),
});
export type Matrix = z.infer<typeof Matrix>;

/** Keys are the command line's long options; `verify: false` is `--no-verify`. An option on the command line wins. */
export const Config = z.strictObject({
  dkms: Texts.optional().describe(
    'DKMS packages: names, .deb or .rpm files, source folders or tarballs, list files',
  ),
  kernel: Texts.optional().describe('Exact kernel releases, globs of them, or latest'),
  'out-dir': z.string().min(1).optional().describe('Folder for the finished packages'),
  distro: z.string().min(1).optional().describe('Catalogue id, when the kernel release does not tell'),
  debug: z.boolean().optional().describe("Keep the VM's disk after every build, to log in to"),
  'keep-failed': z.boolean().optional().describe("Keep the VM's disk after a failure"),
  arch: z
    .enum(['x86_64', 'amd64', 'aarch64', 'arm64'])
    .optional()
    .describe('Architecture to build for, when the kernel release does not tell'),
  image: z
    .string()
    .min(1)
    .optional()
    .describe('Where the VM image comes from: auto, official, bootstrap, or the path of an image'),
  'layer-cache': z
    .string()
    .min(1)
    .optional()
    .describe('Where machines share images and kernel layers: a folder, s3://BUCKET/PREFIX or a URL'),
  mirror: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe("The distro's package mirror"),
  proxy: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('HTTP proxy for host and guest'),
  archive: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe("The distro's archive of old packages"),
  cpus: z.int().min(1).max(256).optional().describe('CPUs of a VM'),
  memory: Memory.optional().describe('Memory of a VM: megabytes, or with a suffix 2048M, 4G'),
  jobs: z.int().min(1).max(1024).optional().describe('VMs that run at once'),
  timeout: Duration.optional().describe('Longest time for one cell: seconds, or with a suffix 90s, 45m, 2h'),
  accel: z.enum(['auto', 'kvm', 'tcg']).optional().describe('QEMU accelerator; auto measures'),
  'name-style': z.enum(['seed', 'dkms']).optional().describe('Form of the package file names'),
  verify: z.boolean().optional().describe('Install and load the package in a fresh VM'),
  'debug-symbols': z
    .boolean()
    .optional()
    .describe("Pack the modules' debug symbols into a -dbgsym package of its own"),
  'check-reproducible': z
    .boolean()
    .optional()
    .describe('Build twice in different surroundings; packages that differ have failed'),
  force: z.boolean().optional().describe('Build even when an identical package is there'),
  'sign-key': z
    .string()
    .min(1)
    .optional()
    .describe('Private key to sign modules with: PEM file or pkcs11: URI'),
  'sign-cert': z.string().min(1).optional().describe('Certificate of the signing key: PEM or DER file'),
  'provenance-key': z.string().min(1).optional().describe('Private key (PEM) to sign the provenance with'),
  'passphrase-file': z.string().min(1).optional().describe("File with the signing key's passphrase or PIN"),
  repo: z.boolean().optional().describe('Make the output folder a repository for apt and dnf'),
  'repo-key': z.string().min(1).optional().describe('OpenPGP secret key file to sign the repository with'),
  keep: z
    .int()
    .min(1)
    .max(10000)
    .optional()
    .describe('Newest versions of a package that stay in the repository'),
  'kernel-package': Texts.optional().describe('Kernel image and header packages, as files or URLs'),
  'dry-run': z.boolean().optional().describe('Print the plan and stop'),
  offline: z.boolean().optional().describe('Use only what the cache holds'),
  json: z.boolean().optional().describe('Print one JSON document on stdout'),
  quiet: z.boolean().optional().describe('Print errors only'),
  verbose: z.boolean().optional().describe('Print the output of guest commands'),
  matrix: Matrix.optional().describe('What dkms2bin matrix builds'),
});
export type Config = z.infer<typeof Config>;

export interface LoadedConfig {
  /** Absolute, null when there is no config file. */
  path: string | null;
  config: Config;
}

/**
 * Reads the config file: `explicit` (of `--config`), which must exist, or `dkms2bin.yaml` in `cwd`, which may. Throws
 * fault `usage` naming file, line and key of every mistake.
 */
export async function loadConfig(options: {
  cwd: string;
  explicit?: string | undefined;
}): Promise<LoadedConfig> {
  const path =
    options.explicit === undefined ? join(options.cwd, CONFIG_NAME) : resolve(options.cwd, options.explicit);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (options.explicit === undefined && (error as NodeJS.ErrnoException).code === 'ENOENT') {
      return { path: null, config: {} };
    }
    throw new Dkms2binError('usage', `Cannot read the config file ${path}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  return { path, config: parseConfig(text, options.explicit ?? CONFIG_NAME) };
}

/** `name` stands for the file in errors. */
export function parseConfig(text: string, name = CONFIG_NAME): Config {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const lineAt = (offset: number): number => lines.linePos(offset).line;
  if (document.errors.length > 0) {
    throw mistakes(document.errors.map((error) => `${name}:${lineAt(error.pos[0])}: ${error.message}`));
  }
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 }) as unknown;
  } catch (error) {
    throw mistakes([`${name}: ${messageOf(error)}`]);
  }
  const parsed = Config.safeParse(value ?? {});
  if (parsed.success) return parsed.data;
  const at = (path: readonly PropertyKey[]): string => {
    let node: unknown = document.contents;
    let range = document.contents?.range;
    for (const key of path) {
      const pair = isMap(node)
        ? node.items.find((item) => isScalar(item.key) && item.key.value === key)
        : null;
      const inner = isSeq(node)
        ? (node.items[Number(key)] as Node | undefined)
        : (pair?.value as Node | null);
      range = (pair?.key as Node | undefined)?.range ?? inner?.range ?? range;
      node = inner;
    }
    return `${name}:${range ? lineAt(range[0]) : 1}`;
  };
  throw mistakes(
    parsed.error.issues.flatMap((issue) => {
      const { path } = issue;
      if (issue.code === 'unrecognized_keys') {
        const shape =
          path.length === 0 ? Config.shape : path[0] === 'matrix' && path.length === 1 ? Matrix.shape : {};
        const known = Object.keys(shape);
        return issue.keys.map(
          (key) => `${at([...path, key])}: unknown key ${[...path, key].join('.')}${suggestion(key, known)}`,
        );
      }
      if (path.length === 0) return [`${at([])}: the file must be a mapping of options`];
      // What each branch of a union says; for the reader the first that speaks of the value's form is the useful one.
      const inner =
        issue.code === 'invalid_union'
          ? issue.errors.flat().find((each) => each.code !== 'invalid_type')?.message
          : undefined;
      return [`${at(path)}: ${path.join('.')}: ${inner ?? issue.message}`];
    }),
  );
}

function mistakes(list: string[]): Dkms2binError {
  return new Dkms2binError('usage', list.join('\n'), {
    hint: 'The keys are the long options of dkms2bin build; see schema/config.schema.json.',
  });
}

/** The key that was meant: the same word in another spelling (`outDir`, `no-verify`, `kernels`). */
function suggestion(key: string, keys: readonly string[]): string {
  const bare = (text: string): string => text.toLowerCase().replace(/[^a-z0-9]/g, '');
  const wanted = bare(key);
  if (wanted === 'noverify' && keys.includes('verify')) return '; did you mean verify: false?';
  const known = keys.find((k) => [bare(k), `${bare(k)}s`].includes(wanted) || bare(k) === `${wanted}s`);
  return known === undefined ? '' : `; did you mean ${known}?`;
}

/** JSON Schema of the config file, published as schema/config.schema.json. */
export function configJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(Config, { io: 'input' }), title: 'dkms2bin.yaml' };
}
