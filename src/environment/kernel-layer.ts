import { readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CONSOLE, type KernelTarget } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { Cost } from '../model/proof.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import type { DistroRow } from '../distro/row.js';
import { run } from '../lib/exec.js';
import { PACKAGE_MANAGERS, type PackageManager } from '../distro/package-manager.js';
import { programFiles } from '../guest/program.js';
import {
  installKernel,
  readInstalledKernel,
  type InstalledKernel,
  type InstallVariables,
} from '../guest/programs/install-kernel.js';
import { cached, contentDigest, hashOf, type Entry } from '../cache/entries.js';
import { nativeLayer } from './native-layer.js';
import { MAC, NET, type DirectBoot } from '../vm/args.js';
import { bootNew, deadline, specOf, type Machine } from './boot.js';

/** A base image ready to put layers on. */
export interface BaseImage {
  /** Read-only qcow2. */
  disk: string;
  /** A bootstrapped image's root folder, `root.tar.zst`: its layers are made natively. */
  root?: string;
  hash: string;
  /** The cache entry that it is. */
  parents: { kind: 'images'; hash: string }[];
  firmware: 'bios' | 'uefi';
  /** The distro that it is of. */
  row: DistroRow;
  /** `bootstrap`, `official` or the user's own path: for messages. */
  source: string;
  /** What provenance says of it. */
  origin: ImageOrigin;
}

export interface ImageOrigin {
  origin: 'official' | 'bootstrap' | 'file';
  /** Of the disk, hex by in-toto's name of the algorithm. */
  digest: Record<string, string>;
}

/** `build` has headers, compiler and dkms; `runtime` is the kernel alone, as on a machine that never builds a module. */
export type Variant = 'build' | 'runtime';

export interface KernelLayer {
  release: string;
  variant: Variant;
  disk: string;
  boot: DirectBoot;
  /** Path of the kernel's configuration, as it lies in /boot. */
  config: string;
  /** Package versions that the guest reported: image, headers, gcc, dkms. */
  versions: Record<string, string>;
  image: ImageOrigin;
  /** Kernel packages that were given as files. */
  kernelPackages: { file: string; sha256: string }[];
  /** Of the variant `runtime`: what headers and dkms would take there; null when its package sources lack the headers. */
  toolchain: Cost | null;
  entry: Entry;
}

/**
 * The layer with the exact kernel on top of `base`; made when the cache lacks it, natively where that is possible, else
 * in a VM. The caller releases `entry.use` when no VM uses the layer any more.
 */
export async function kernelLayer(
  base: BaseImage,
  target: KernelTarget,
  variant: Variant,
  kernelPackages: readonly string[],
  machine: Machine,
): Promise<KernelLayer> {
  const agent = AGENT_FILES[variant];
  const texts = await Promise.all(
    [
      ...programFiles(managerOf(base).script).map((file) => `guest/${file}`),
      ...LAYER_TEXTS,
      ...agent.map((f) => `guest/${f.from}`),
    ].map((name) => readFile(join(PACKAGE_ROOT, 'cloud-init', name), 'utf8')),
  );
  const files = await Promise.all(kernelPackages.map((file) => contentDigest(file)));
  const hash = hashOf([
    'kernel-layer-4',
    variant,
    base.hash,
    target.release,
    target.packageVersion ?? null,
    target.suite ?? null,
    target.archive ?? null,
    files,
    texts,
  ]);
  const what = variant === 'build' ? 'kernel' : 'runtime';
  const entry = await cached(
    'layers',
    hash,
    async (dir) => {
      const phase = `${what} layer ${target.release}`;
      machine.emit({ type: 'phase', state: 'start', phase });
      const started = Date.now();
      const made =
        (await makeNatively(base, target, variant, kernelPackages, machine, dir)) ??
        (await makeInVm(base, target, variant, kernelPackages, machine, dir));
      machine.emit({ type: 'phase', state: 'end', phase, seconds: (Date.now() - started) / 1000 });
      return {
        name: `${what} ${target.release} on ${target.distro}`,
        parents: base.parents,
        image: base.origin,
        kernelPackages: kernelPackages.map((file, at) => ({ file: basename(file), sha256: files[at]! })),
        ...made,
      };
    },
    machine.signal,
    machine.shared,
  );
  const cmdline = String(entry.meta.cmdline);
  return {
    release: target.release,
    variant,
    disk: join(entry.dir, 'disk.qcow2'),
    boot: {
      kind: 'direct',
      vmlinuz: join(entry.dir, 'vmlinuz'),
      initrd: join(entry.dir, 'initrd'),
      cmdline,
    },
    config: join(entry.dir, 'config'),
    versions: entry.meta.versions as Record<string, string>,
    image: entry.meta.image as ImageOrigin,
    kernelPackages: entry.meta.kernelPackages as { file: string; sha256: string }[],
    toolchain: entry.meta.toolchain as Cost | null,
    entry,
  };
}

/** Besides the agent, what a layer is made by. */
const LAYER_TEXTS = ['guest/provision.sh', 'layer/native-layer.sh'];

const managerOf = ({ row }: BaseImage): PackageManager => PACKAGE_MANAGERS[row.packageManager ?? 'apt'];

const AGENT = [
  { from: 'agent.py', to: '/usr/local/lib/dkms2bin/agent.py', mode: 0o755 },
  { from: 'dkms2bin-agent.service', to: '/etc/systemd/system/dkms2bin-agent.service', mode: 0o644 },
];

/** The guest's end of the control channel, and what settle.sh compiles. */
const AGENT_FILES: Record<Variant, typeof AGENT> = {
  build: [{ from: 'cc-probes.c', to: '/usr/local/lib/dkms2bin/cc-probes.c', mode: 0o644 }, ...AGENT],
  runtime: AGENT,
};

type Made = Pick<KernelLayer, 'versions' | 'toolchain'> & { cmdline: string };

/**
 * In the image's root folder, for a bootstrapped image and packages that its distro signed. Null when this image or host
 * cannot; says why.
 */
async function makeNatively(
  base: BaseImage,
  target: KernelTarget,
  variant: Variant,
  kernelPackages: readonly string[],
  machine: Machine,
  dir: string,
): Promise<Made | null> {
  if (base.root === undefined || kernelPackages.length > 0) return null;
  const network = (nic: keyof typeof NET, more: string[]): string =>
    ['[Match]', `MACAddress=${MAC[nic]}`, '[Network]', `Address=${NET[nic].guest}/24`, ...more].join('\n');
  try {
    const installed = await nativeLayer({
      arch: target.arch,
      root: base.root,
      disk: base.disk,
      release: target.release,
      install: {
        script: managerOf(base).script,
        vars: installVars(base, target, variant, '', machine),
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
      ...(machine.proxy ? { proxy: machine.proxy } : {}),
    });
    return madeOf(readInstalledKernel(installed, target), target, ' cloud-init=disabled');
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
async function makeInVm(
  base: BaseImage,
  target: KernelTarget,
  variant: Variant,
  kernelPackages: readonly string[],
  machine: Machine,
  dir: string,
): Promise<Made> {
  const spec = specOf(machine, { kind: 'loader', firmware: base.firmware }, true, 'ssh');
  await using booted = await bootNew(base.disk, spec, dir, machine);
  const { guest, vm } = booted;
  if (kernelPackages.length > 0) {
    await guest.text('mkdir -p /var/tmp/dkms2bin-kernel');
    for (const file of kernelPackages) {
      await guest.put(
        { file },
        `/var/tmp/dkms2bin-kernel/${basename(file).replaceAll(/[^A-Za-z0-9._+~-]/g, '_')}`,
      );
    }
  }
  const packageDir = kernelPackages.length > 0 ? '/var/tmp/dkms2bin-kernel' : '';
  const vars = installVars(base, target, variant, packageDir, machine);
  const result = await installKernel(guest, managerOf(base).script, vars, {
    timeoutMs: deadline(machine.accel, 300),
    onLine: (line) => machine.emit({ type: 'output', line }),
  });
  const installed = readInstalledKernel(result, target);
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
    'rm -rf /var/tmp/dkms2bin-kernel; cloud-init clean --logs; rm -f /etc/ssh/ssh_host_*; sync',
  );
  await guest.text('systemctl --no-block poweroff || poweroff');
  await vm.waitForPowerOff(deadline(machine.accel, 30));
  for (const name of [
    'id',
    'id.pub',
    'host',
    'host.pub',
    'known_hosts',
    'seed.iso',
    'user-data',
    'meta-data',
    'network-config',
    'qemu.log',
    'efivars.fd',
  ]) {
    await rm(join(dir, name), { force: true });
  }
  await run('qemu-img', ['check', '-q', '-f', 'qcow2', join(dir, 'disk.qcow2')]);
  return madeOf(installed, target, '');
}

function installVars(
  base: BaseImage,
  target: KernelTarget,
  variant: Variant,
  packageDir: string,
  machine: Machine,
): InstallVariables {
  const { row, source } = base;
  // A cloud image knows its own repositories; one that was made here has to be told.
  const mirror = machine.mirror ?? (source === 'bootstrap' ? row.mirrors.main : undefined);
  return {
    RELEASE: target.release,
    VARIANT: variant,
    ...managerOf(base).variables(row, target, { mirror, proxy: machine.proxy }),
    SUITE: target.suite ?? '',
    ARCHIVE_URI: target.archive?.uri ?? '',
    ARCHIVE_SUITE: target.archive?.suite ?? '',
    KERNEL_PACKAGE_DIR: packageDir,
  };
}

/** The layer by what was reported; `cmdline` is added to the kernel's. */
function madeOf(
  { versions, toolchain, rootUuid }: InstalledKernel,
  target: KernelTarget,
  cmdline: string,
): Made {
  return { cmdline: cmdlineOf(rootUuid, target, cmdline), versions, toolchain };
}

function cmdlineOf(uuid: string, { arch }: KernelTarget, more: string): string {
  // panic=-1 with -no-reboot turns a panic into QEMU's exit, which every wait notices.
  return `root=UUID=${uuid} ro console=${CONSOLE[arch]} panic=-1 loglevel=5 mitigations=off${more}`;
}
