import type { Arch } from '../model/cell.js';
import type { Config } from '../options/config.js';
import { buildRequest } from '../options/request.js';
import type { BuildRequest } from '../options/request.js';
import { duration, size } from '../options/values.js';

/** Values of build's options as commander hands them over; absent unless typed. */
export interface BuildOptions {
  dkms?: string[];
  kernel?: string[];
  distro?: string;
  outDir?: string;
  debug?: true;
  keepFailed?: true;
  arch?: Arch;
  image?: string;
  layerCache?: string;
  mirror?: string;
  archive?: string;
  kernelPackage?: string[];
  proxy?: string;
  cpus?: number;
  memory?: number;
  jobs?: number;
  timeout?: number;
  accel?: BuildRequest['accel'];
  nameStyle?: BuildRequest['nameStyle'];
  /** Commander makes this true when --no-verify is absent. */
  verify?: boolean;
  debugSymbols?: true;
  checkReproducible?: true;
  signKey?: string;
  signCert?: string;
  passphraseFile?: string;
  provenanceKey?: string;
  repo?: true;
  repoKey?: string;
  keep?: number;
  force?: true;
  offline?: true;
  dryRun?: true;
  json?: true;
  quiet?: true;
  verbose?: true;
  config?: string;
}

/** Debian's names are understood too. */
export const ARCH_NAMES = {
  x86_64: 'x86_64',
  amd64: 'x86_64',
  aarch64: 'aarch64',
  arm64: 'aarch64',
} as const satisfies Record<string, Arch>;

export const NAME_STYLES = { seed: 'seed', dkms: 'dkms' } as const;

/** The config file's words as options. The loader has checked their form; the parsers here give them units. */
function optionsOf(config: Config): BuildOptions {
  const list = (value: string | string[] | undefined): string[] | undefined =>
    typeof value === 'string' ? [value] : value;
  const yes = (value: boolean | undefined): true | undefined => (value === true ? true : undefined);
  const memory = config.memory === undefined ? undefined : size('memory')(String(config.memory));
  const timeout = config.timeout === undefined ? undefined : duration('timeout')(String(config.timeout));
  const style = config['name-style'];
  return defined({
    dkms: list(config.dkms),
    kernel: list(config.kernel),
    distro: config.distro,
    outDir: config['out-dir'],
    debug: yes(config.debug),
    keepFailed: yes(config['keep-failed']),
    arch: config.arch && ARCH_NAMES[config.arch],
    image: config.image,
    layerCache: config['layer-cache'],
    mirror: config.mirror,
    archive: config.archive,
    kernelPackage: list(config['kernel-package']),
    proxy: config.proxy,
    cpus: config.cpus,
    memory,
    jobs: config.jobs,
    timeout,
    accel: config.accel,
    nameStyle: style && NAME_STYLES[style],
    verify: config.verify,
    debugSymbols: yes(config['debug-symbols']),
    checkReproducible: yes(config['check-reproducible']),
    signKey: config['sign-key'],
    signCert: config['sign-cert'],
    passphraseFile: config['passphrase-file'],
    provenanceKey: config['provenance-key'],
    repo: yes(config.repo),
    repoKey: config['repo-key'],
    keep: config.keep,
    force: yes(config.force),
    offline: yes(config.offline),
    dryRun: yes(config['dry-run']),
    json: yes(config.json),
    quiet: yes(config.quiet),
    verbose: yes(config.verbose),
  });
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

const defined = <T extends object>(values: T): Defined<T> =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Defined<T>;

/** An option wins over the config file; a typed list replaces the file's list. */
export function mergeOptions(options: BuildOptions, config: Config): BuildOptions {
  // Commander says verify: true when nobody said anything.
  const { verify, ...typed } = options;
  const merged = { ...optionsOf(config), ...typed, ...(verify === false ? { verify } : {}) };
  if (options.quiet) delete merged.verbose;
  if (options.verbose) delete merged.quiet;
  return merged;
}

/** Merged options and the defaults. */
export function requestOf(options: BuildOptions, cwd: string): BuildRequest {
  return buildRequest({
    dkms: options.dkms,
    kernels: options.kernel,
    distro: options.distro,
    outDir: options.outDir,
    arch: options.arch,
    image: options.image,
    layerCache: options.layerCache,
    mirror: options.mirror,
    archive: options.archive,
    proxy: options.proxy,
    cpus: options.cpus,
    memoryMiB: options.memory,
    jobs: options.jobs,
    timeoutSeconds: options.timeout,
    accel: options.accel,
    nameStyle: options.nameStyle,
    verify: options.verify,
    debugSymbols: options.debugSymbols,
    checkReproducible: options.checkReproducible,
    force: options.force,
    debug: options.debug,
    keepFailed: options.keepFailed,
    offline: options.offline,
    signKey: options.signKey,
    signCert: options.signCert,
    provenanceKey: options.provenanceKey,
    passphraseFile: options.passphraseFile,
    kernelPackages: options.kernelPackage,
    cwd,
  });
}
