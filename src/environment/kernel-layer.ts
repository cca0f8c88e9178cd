import { readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import type { KernelTarget } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { credentialsFor } from '../lib/credentials.js';
import { cacheDir, PACKAGE_ROOT } from '../lib/paths.js';
import { allocatedClusters } from '../lib/qemu-img.js';
import { extraAuthorities } from '../lib/authorities.js';
import { hostMirrors, mirrorsOf, proxyFor } from '../distro/mirrors.js';
import { sourceKey } from '../distro/kernel-source.js';
import { PACKAGE_MANAGERS, type PackageManager } from '../distro/package-manager.js';
import { cpuLevelOf, isApt, requireSigned } from '../distro/row.js';
import type { Guest } from '../guest/guest.js';
import { programFiles } from '../guest/program.js';
import {
  installKernel,
  readInstalledKernel,
  type InstalledKernel,
  type InstallVariables,
} from '../guest/programs/install-kernel.js';
import { AS_LONG_AS_IT_TAKES_MS } from '../guest/transport.js';
import { cached, contentDigest, hashOf, lookUp, type Entry } from '../cache/entries.js';
import { MAC, NET } from '../vm/args.js';
import { ImageOrigin, type BaseImage, type Variant } from './base-image.js';
import {
  bootNew,
  deadline,
  kernelArguments,
  MIRROR_HINT,
  removeAccess,
  specOf,
  type Boots,
  type Machine,
} from './boot.js';
import { guestProxy, reachable, type GuestProxy } from './guest-proxy.js';
import { nativeLayer } from './native-layer.js';
import { phase } from './phase.js';
import { OFFICIAL_GIB } from './unpacked-image.js';

/** Which kernel, on which image. */
interface LayerRequest {
  base: BaseImage;
  target: KernelTarget;
  variant: Variant;
  /** Local files to install instead of what the image's package sources have. */
  kernelPackages: readonly string[];
  /** What to install besides the toolchain: packages of the distro, and local files. */
  buildPackages: { names: readonly string[]; files: readonly string[] };
}

/** What the cache says of a layer. */
const LayerMeta = z.object({
  cmdline: z.string(),
  /** Package versions that the guest reported: image, headers, gcc, dkms. */
  versions: z.record(z.string(), z.string()),
  image: ImageOrigin,
  /** Where the root file system begins on the disk, in bytes; null when that is no ext4. */
  rootOffset: z.number().nullable().default(null),
  /** Kernel packages that were given as files. */
  kernelPackages: z.array(z.object({ file: z.string(), sha256: z.string() })),
  /** Build packages that were given as files. */
  buildPackages: z.array(z.object({ file: z.string(), sha256: z.string() })).default([]),
  /** Of the variant `runtime`: what headers and dkms would take there; null when its package sources lack the headers. */
  toolchain: z
    .object({ packages: z.number(), installedBytes: z.number(), downloadBytes: z.number() })
    .nullable(),
});
type LayerMeta = z.infer<typeof LayerMeta>;

export interface KernelLayer extends Pick<
  LayerMeta,
  'versions' | 'image' | 'rootOffset' | 'kernelPackages' | 'buildPackages' | 'toolchain'
> {
  release: string;
  variant: Variant;
  disk: string;
  boot: Boots;
  /** Path of the kernel's configuration, as it lies in /boot. */
  config: string;
  entry: Entry;
}

/**
 * The layer with the exact kernel on top of `base`; made when the cache lacks it, natively where that is possible, else
 * in a VM. The caller releases `entry.use` when no VM uses the layer any more.
 */
export async function kernelLayer(request: LayerRequest, machine: Machine): Promise<KernelLayer> {
  const { base, target, variant } = request;
  const contents = (paths: readonly string[]): Promise<LayerMeta['kernelPackages']> =>
    Promise.all(paths.map(async (path) => ({ file: basename(path), sha256: await contentDigest(path) })));
  const kernelPackages = await contents(request.kernelPackages);
  const buildPackages = await contents(request.buildPackages.files);
  const digests = [
    ...kernelPackages.map(({ sha256 }) => sha256),
    ...request.buildPackages.names,
    ...buildPackages.map(({ sha256 }) => sha256),
  ];
  const hash = await layerHash({ base, target, variant, digests }, machine);
  const what = variant === 'build' ? 'kernel' : 'runtime';
  const entry = await cached(
    'layers',
    hash,
    async (dir) => {
      const made = await phase(
        machine.emit,
        `${what} layer ${target.release}`,
        async () => (await makeNatively(request, machine, dir)) ?? (await makeInVm(request, machine, dir)),
      );
      return {
        name: `${what} ${target.release} on ${target.distro}`,
        parents: base.parents,
        image: base.origin,
        rootOffset: base.root?.offset ?? null,
        kernelPackages,
        buildPackages,
        ...made,
      };
    },
    { about: LayerMeta, signal: machine.signal, shared: machine.shared },
  );
  return { ...layerOf(entry, request), entry };
}

function layerOf(
  { dir, meta }: Omit<Entry<LayerMeta>, 'use'>,
  {
    base: { row },
    target: { release },
    variant,
  }: Pick<LayerRequest, 'target' | 'variant'> & { base: LayerBase },
): Omit<KernelLayer, 'entry'> {
  const cpuLevel = cpuLevelOf(row, release);
  const { cmdline, versions, image, rootOffset, toolchain, kernelPackages, buildPackages } = meta;
  return {
    ...{ release, variant, versions, image, rootOffset, kernelPackages, buildPackages, toolchain },
    disk: join(dir, 'disk.qcow2'),
    boot: { kind: 'direct', vmlinuz: join(dir, 'vmlinuz'), initrd: join(dir, 'initrd'), cmdline, cpuLevel },
    config: join(dir, 'config'),
  };
}

/** What a layer is known by: with another image, kernel, mirror or recipe it is another one. `digests` tell of given packages. */
async function layerHash(
  {
    base,
    target,
    variant,
    digests,
  }: Pick<LayerRequest, 'target' | 'variant'> & { base: LayerBase; digests: readonly string[] },
  machine: Pick<Machine, 'mirror'>,
): Promise<string> {
  return hashOf([
    'kernel-layer-5',
    variant,
    base.hash,
    // A bootstrapped image has its mirror in its own hash.
    base.source === 'bootstrap' ? null : (machine.mirror ?? null),
    variant === 'build' ? (base.row.toolchain ?? null) : null,
    target.release,
    target.packageVersion ?? null,
    target.suite ?? null,
    target.archive ?? null,
    digests,
    ...(base.row.overlay ? [base.row.overlay.repositories, base.row.packages] : []),
    await recipeTexts(base, variant),
  ]);
}

/** Of an image, what its layers are known by. */
export type LayerBase = Pick<BaseImage, 'hash' | 'source' | 'row'>;

/** A layer that the cache has; nobody holds it. Null when it has none. */
export async function cachedLayer(
  request: Parameters<typeof layerHash>[0],
  machine: Pick<Machine, 'mirror'>,
): Promise<(Omit<KernelLayer, 'entry'> & { entry: Omit<Entry, 'use'> }) | null> {
  const entry = await lookUp('layers', await layerHash(request, machine), LayerMeta);
  return entry && { ...layerOf(entry, request), entry };
}

/** The texts of all that a layer is made by: with another one it is another layer. */
function recipeTexts(base: LayerBase, variant: Variant): Promise<string[]> {
  const agent = AGENT_FILES[variant].map(({ from }) => `guest/${from}`);
  const install = programFiles(managerOf(base).script).map((file) => `guest/${file}`);
  const names = [...install, 'guest/provision.sh', 'layer/native-layer.sh', ...agent];
  return Promise.all(names.map((name) => readFile(join(PACKAGE_ROOT, 'cloud-init', name), 'utf8')));
}

/** Tells what the installation had to say. */
function tell({ notes }: InstalledKernel, { emit }: Machine): void {
  for (const message of notes) emit({ type: 'note', level: 'info', message });
}

const managerOf = ({ row }: Pick<BaseImage, 'row'>): PackageManager =>
  PACKAGE_MANAGERS[row.packageManager ?? 'apt'];

const AGENT = [
  { from: 'agent.py', to: '/usr/local/lib/dkms2bin/agent.py', mode: 0o755 },
  { from: 'dkms2bin-agent.service', to: '/etc/systemd/system/dkms2bin-agent.service', mode: 0o644 },
];

/** The guest's end of the control channel, and what settle.sh compiles. */
const AGENT_FILES: Record<Variant, typeof AGENT> = {
  build: [
    ...['cc-probes.c', 'sh-probes.c', 'probes.c', 'probes.h', 'cc-host.c', 'cc-host.h'].map((from) => ({
      ...{ from, to: `/usr/local/lib/dkms2bin/${from}`, mode: 0o644 },
    })),
    ...AGENT,
  ],
  runtime: AGENT,
};

type Made = Pick<LayerMeta, 'versions' | 'toolchain' | 'cmdline'>;

/** In the image's root folder, where we have it, for packages that somebody signed. Null when this image or host cannot; says why. */
async function makeNatively(request: LayerRequest, machine: Machine, dir: string): Promise<Made | null> {
  const { base, target, variant, kernelPackages, buildPackages } = request;
  if (base.root === undefined || kernelPackages.length > 0 || buildPackages.files.length > 0) return null;
  const network = (nic: keyof typeof NET, more: string[]): string =>
    ['[Match]', `MACAddress=${MAC[nic]}`, '[Network]', `Address=${NET[nic].guest}/24`, ...more].join('\n');
  try {
    requireSigned(base.row);
    const reach = { proxy: (await proxyFor(machine.proxy)) ?? '', urls: await urlsOf(request, machine) };
    await using through = await guestProxy(reach, 'sandbox');
    const installed = await nativeLayer({
      arch: target.arch,
      root: base.root,
      disk: base.disk,
      release: target.release,
      install: {
        script: managerOf(base).script,
        vars: {
          ...(await installVars(request, machine, through)),
          ROOT_UUID: base.root.uuid ?? '',
        },
        list: managerOf(base).list,
      },
      provision: {
        management: network('management', ['LinkLocalAddressing=no']),
        egress: network('egress', [
          'LinkLocalAddressing=no',
          `Gateway=${NET.egress.gateway}`,
          `DNS=${NET.egress.dns}`,
        ]),
      },
      files: AGENT_FILES[variant],
      dir,
      emit: machine.emit,
      signal: machine.signal,
    });
    const kernel = readInstalledKernel(installed, target);
    tell(kernel, machine);
    return madeOf(kernel, target, ' cloud-init=disabled');
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault !== 'host') throw error;
    for (const name of ['disk.qcow2', 'vmlinuz', 'initrd', 'config', 'packages'])
      await rm(join(dir, name), { force: true });
    machine.emit({
      type: 'note',
      level: 'warn',
      message: `The kernel layer is made in a VM, which takes minutes longer: ${error.message}`,
    });
    return null;
  }
}

/** In a VM that boots the image by its own loader: any cloud image, any package. */
async function makeInVm(request: LayerRequest, machine: Machine, dir: string): Promise<Made> {
  const { base, target, variant, kernelPackages } = request;
  const { cpuLevel } = base.row.arch.x86_64;
  const boot = { kind: 'loader', firmware: base.firmware, cpuLevel } as const;
  const spec = specOf(machine, { boot, control: 'ssh', egress: true, network: 'egress' });
  // One that was made here is large enough.
  const atLeastGiB = base.source === 'bootstrap' ? 0 : OFFICIAL_GIB;
  await using booted = await bootNew({ backing: base.disk, spec, atLeastGiB }, dir, machine);
  const { guest, vm } = booted;
  const packageDir = await putFiles(guest, kernelPackages, '/var/tmp/dkms2bin-kernel');
  const buildDir = await putFiles(guest, request.buildPackages.files, '/var/tmp/dkms2bin-build');
  const proxy = await proxyFor(machine.proxy);
  const urls = await urlsOf(request, machine);
  // One of the host's loopback is in reach of the gateway alone.
  const secret = [proxy, ...urls].some((url) => url !== undefined && credentialsFor(url));
  await using through = await guestProxy(
    { proxy: secret ? (proxy ?? '') : reachable(proxy, machine), urls },
    'vm',
  );
  const vars = {
    ...(await installVars(request, machine, through)),
    KERNEL_PACKAGE_DIR: packageDir,
    BUILD_PACKAGE_DIR: buildDir,
  };
  const result = await installKernel(guest, managerOf(base).script, vars, {
    timeoutMs: AS_LONG_AS_IT_TAKES_MS,
    lateHint: MIRROR_HINT,
    // apt itself gives a connection up after a minute.
    silenceMs: deadline(machine.accel, 120),
    onLine: (line) => machine.emit({ type: 'output', line }),
  });
  const installed = readInstalledKernel(result, target);
  tell(installed, machine);
  for (const { from, to, mode } of AGENT_FILES[variant]) {
    await guest.text(`mkdir -p ${dirname(to)}`);
    await guest.put({ file: join(PACKAGE_ROOT, 'cloud-init/guest', from) }, to);
    await guest.text(`chmod ${mode.toString(8)} ${to}`);
  }
  await guest.text('systemctl enable --quiet dkms2bin-agent.service');
  const packages = await guest.text(managerOf(base).list);
  await writeFile(join(dir, 'packages'), packages);
  const limit = 512 * 1024 * 1024;
  await guest.fetch(`/boot/vmlinuz-${target.release}`, join(dir, 'vmlinuz'), limit);
  await guest.fetch(`/boot/initrd.img-${target.release}`, join(dir, 'initrd'), limit);
  await guest.fetch(`/boot/config-${target.release}`, join(dir, 'config'), limit);
  await guest.text(
    'rm -rf /var/tmp/dkms2bin-kernel /var/tmp/dkms2bin-build; cloud-init clean --logs; rm -f /etc/ssh/ssh_host_*; sync',
  );
  await guest.text('systemctl --no-block poweroff || poweroff');
  await vm.waitForPowerOff(deadline(machine.accel, 30));
  await removeAccess(dir);
  await rm(join(dir, 'seed.iso'), { force: true });
  await allocatedClusters(join(dir, 'disk.qcow2'), vm.backings, machine.signal);
  return madeOf(installed, target, installed.bootArguments);
}

/** Sends files into a folder of the guest; the folder, '' for no files. */
async function putFiles(guest: Guest, files: readonly string[], folder: string): Promise<string> {
  if (files.length === 0) return '';
  await guest.text(`mkdir -p ${folder}`);
  for (const file of files)
    await guest.put({ file }, `${folder}/${basename(file).replaceAll(/[^A-Za-z0-9._+~-]/g, '_')}`);
  return folder;
}

async function installVars(
  { base, target, variant, buildPackages }: LayerRequest,
  machine: Machine,
  { proxy, named }: GuestProxy,
): Promise<InstallVariables> {
  const found = await guestMirrors(base, machine);
  const mirrors = found && { main: named(found.main), security: found.security && named(found.security) };
  const { key } = base.row.overlay ?? {};
  const kernelKey =
    key &&
    (await sourceKey(base.row.id, key, {
      cacheDir: cacheDir(),
      signal: machine.signal,
      proxy: machine.proxy,
    }));
  return {
    RELEASE: target.release,
    VARIANT: variant,
    ...managerOf(base).variables(base.row, target, { mirrors, proxy, kernelKey, named }),
    ...(target.packages && namesOf(target.packages, base)),
    SUITE: target.suite ?? '',
    ARCHIVE_URI: named(target.archive?.uri ?? ''),
    ARCHIVE_SUITE: target.archive?.suite ?? '',
    AUTHORITIES: await extraAuthorities(),
    KERNEL_PACKAGE_DIR: '',
    BUILD_PACKAGES: buildPackages.names.join(' '),
    BUILD_PACKAGE_DIR: '',
  };
}

/** What the packages of a kernel that was given as files are called. What is not among them is asked for by the distro's own names. */
function namesOf(
  { image, headers }: NonNullable<KernelTarget['packages']>,
  { row }: BaseImage,
): Record<string, string> {
  const names = { IMAGE_PACKAGES: image, ...(headers !== undefined && { HEADER_PACKAGES: headers }) };
  return isApt(row) ? names : { ...names, MODULE_PACKAGES: '', EXTRA_PACKAGES: '' };
}

/** What a guest may be told to download from: all that may need a password. */
async function urlsOf({ base, target }: LayerRequest, machine: Machine): Promise<(string | undefined)[]> {
  const mirrors = (await guestMirrors(base, machine)) ?? (await mirrorsOf(base.row, machine, machine.arch));
  const kernels = base.row.overlay?.repositories.map(({ url }) => url) ?? [];
  return [mirrors.main, mirrors.security, target.archive?.uri, ...kernels];
}

/**
 * The mirrors for a guest, when they are not to be those that its image knows: `--mirror`, and for an official image of Debian
 * those of this host's apt, as for a bootstrapped one. apt in one that was made here has them already.
 */
async function guestMirrors(
  { row, source }: BaseImage,
  { mirror, arch }: Machine,
): Promise<{ main: string; security?: string | undefined } | undefined> {
  if (source === 'bootstrap') return isApt(row) ? undefined : { main: mirror ?? row.mirrors.main };
  const ofHost = source === 'official' && row.family === 'debian' ? await hostMirrors() : {};
  if (mirror === undefined && ofHost.main === undefined) return undefined;
  return mirrorsOf(row, { mirror }, arch);
}

/** The layer by what was reported; `more` is added to the kernel's arguments. */
function madeOf(kernel: InstalledKernel, { arch }: KernelTarget, more: string): Made {
  const { versions, toolchain, rootUuid } = kernel;
  return { cmdline: kernelArguments(rootUuid, arch) + more, versions, toolchain };
}
