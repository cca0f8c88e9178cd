import { createHash } from 'node:crypto';
import { chmod, cp, mkdir, open, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { CONSOLE, DEB_ARCH, HOST_ARCH } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import type { Stage } from '../model/stages.js';
import { run } from '../lib/exec.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { syncPath } from '../lib/atomic-write.js';
import { hostMirrors, hostProxy } from '../distro/mirrors.js';
import { namespaceCommand, removeScratch, SBIN } from '../lib/namespace.js';

export interface BootstrapRequest {
  /** Codename: bullseye, bookworm, trixie, forky, sid. */
  suite: string;
  arch: Arch;
  /** Packages beyond the ones every image has (`basePackages`): the kernel, the toolchain, dkms. */
  includes: string[];
  /** Archive root; by default the host's own Debian mirror, else mmdebstrap's. */
  mirror?: string;
  /** Where the packages of another distro than Debian are; `mirror` does not count then. The keyring is this host's. */
  archive?: { main: string; security: string; components: readonly string[]; keyring: string };
  /** The suite of `extraSuites` that lies in the security archive, when its name does not end in `-security`. */
  securitySuite?: string;
  /** bookworm-updates, bookworm-security, bookworm-backports. */
  extraSuites: string[];
  /** HTTP proxy for the downloads; not kept in the image. By default the host's apt proxy. */
  proxy?: string;
  /** Virtual size; the file is sparse. */
  diskGiB: number;
  /** Final path of the qcow2, written beside it and renamed. */
  out: string;
  /** Final path of the root folder as a tar, zstd. */
  rootOut: string;
  /** An existing scratch folder with about 4 GiB free. */
  workDir: string;
  emit: Emit;
  signal?: AbortSignal;
}

/** GRUB's package and format for UEFI, and what UEFI looks for on removable media. */
const EFI_GRUB: Record<Arch, { package: string; format: string; file: string }> = {
  x86_64: { package: 'grub-efi-amd64-bin', format: 'x86_64-efi', file: 'BOOTX64.EFI' },
  aarch64: { package: 'grub-efi-arm64-bin', format: 'arm64-efi', file: 'BOOTAA64.EFI' },
};

/** What an image needs to boot, to be reached, and to grow, whatever its suite. */
export const basePackages = (arch: Arch): string[] => [
  ...['apt', 'ca-certificates', 'debian-archive-keyring', 'systemd-sysv', 'udev', 'dbus', 'kmod', 'iproute2'],
  ...[
    'initramfs-tools',
    'cloud-init',
    'cloud-guest-utils',
    'openssh-server',
    'sudo',
    // No longer essential after Debian 13: useradd, mount units, and logins on the console need them.
    'passwd',
    'mount',
    'login',
    'python3',
    'xz-utils',
    'zstd',
  ],
  ...['e2fsprogs', 'grub-common', 'grub2-common', EFI_GRUB[arch].package],
  ...(arch === 'x86_64' ? ['grub-pc-bin'] : []),
];

const SECTOR = 512;
const MIB = 1024 * 1024;
/** The layout in sectors: BIOS boot partition, ESP, root. Root is last so that growpart can enlarge it. */
const BIOS_BOOT = { start: 2048, size: 2048 };
const ESP = { start: 4096, size: 131072 };
const ROOT_START = ESP.start + ESP.size;
/** Where the root file system begins, in bytes. */
export const ROOT_OFFSET = ROOT_START * SECTOR;

/**
 * Makes a bootable qcow2 of a Debian suite from its packages, without privilege, loop devices or mounts.
 * Resolves with the sorted `name version` lines of all that is installed. Leaves nothing in `workDir`.
 * Throws fault `host` when a tool is missing or fails, quoting it.
 */
export async function bootstrapImage(request: BootstrapRequest): Promise<{ packages: string }> {
  const scratch = join(request.workDir, `bootstrap-${process.pid}`);
  const partial = `${request.out}.part-${process.pid}`;
  const context: Context = {
    request,
    scratch,
    uuid: uuidOf(request),
    tar: join(scratch, 'root.tar'),
    root: join(scratch, 'root'),
    raw: join(scratch, 'disk.raw'),
  };
  await mkdir(scratch, { mode: 0o755 });
  try {
    await phase(request.emit, 'bootstrap packages', () => installFromLivingIndexes(context));
    await phase(request.emit, 'bootstrap filesystem', () => writeDisk(context));
    const packages = await readFile(join(context.root, 'var/lib/dkms2bin/packages'), 'utf8');
    await phase(request.emit, 'bootstrap convert', async () => {
      await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', context.raw, partial], cancel(request));
      await syncPath(partial);
      await rename(partial, request.out);
    });
    return { packages };
  } finally {
    await rm(partial, { force: true });
    await removeScratch(scratch);
  }
}

interface Context {
  request: BootstrapRequest;
  scratch: string;
  /** Of the root file system: the boot loader finds it by this. */
  uuid: string;
  tar: string;
  root: string;
  raw: string;
}

/** What a mirror's state forces on a bootstrap; each is announced. */
interface Concessions {
  /** Take indexes past their Valid-Until. Their signatures are still checked. */
  expired: boolean;
  /** Leave the security suite out, because its index names packages that its pool no longer has. */
  withoutSecurity: boolean;
}

/**
 * A mirror that lags behind is common: indexes of a development suite expire within a week, and a release at the end
 * of its support keeps an index of packages that are gone. Both are worked around once, with a warning.
 */
async function installFromLivingIndexes(context: Context): Promise<void> {
  const { request, scratch, tar } = context;
  const concessions: Concessions = { expired: false, withoutSecurity: false };
  for (;;) {
    try {
      await installPackages(context, concessions);
      return;
    } catch (error) {
      const text = messageOf(error);
      let message: string;
      if (!concessions.expired && /Release file for .* is (expired|not valid)/i.test(text)) {
        concessions.expired = true;
        message = `The mirror's index of ${request.suite} has expired: using it as it is (its signature is checked), so its packages may not be the newest`;
      } else if (!concessions.withoutSecurity && /404\s+Not Found/i.test(text)) {
        concessions.withoutSecurity = true;
        message = `The mirror no longer has packages that its index of ${request.suite} names: leaving the security suite out`;
      } else throw error;
      request.emit({ type: 'note', level: 'warn', message });
      await rm(tar, { force: true });
      for (const name of ['bootstrap', 'tmp'])
        await rm(join(scratch, name), { recursive: true, force: true });
    }
  }
}

async function installPackages(
  { request, scratch, uuid, tar }: Context,
  concessions: Concessions,
): Promise<void> {
  const extraSuites = request.extraSuites.filter(
    (suite) => !concessions.withoutSecurity || !isSecurity(suite, request),
  );
  const components = request.archive?.components.join(' ') ?? componentsOf(request.suite);
  const support = join(scratch, 'bootstrap');
  await cp(join(PACKAGE_ROOT, 'cloud-init', 'bootstrap'), support, { recursive: true });
  const params = {
    ROOT_UUID: uuid,
    SUITE: request.suite,
    // All of them: what is left out here may still have the kernel that is wanted later.
    EXTRA_SUITES: request.extraSuites.join(' '),
    COMPONENTS: components,
    CONSOLE: CONSOLE[request.arch],
    EFI_FORMAT: EFI_GRUB[request.arch].format,
  };
  for (const [key, value] of Object.entries(params)) {
    if (!/^[\w. /-]*$/.test(value)) throw new Dkms2binError('usage', `${key} has a bad character: ${value}`);
  }
  await writeFile(
    join(support, 'params'),
    Object.entries(params)
      .map(([key, value]) => `${key}='${value}'\n`)
      .join(''),
  );
  const tmp = join(scratch, 'tmp');
  await mkdir(tmp, { mode: 0o755 });
  await chmod(tmp, 0o755);

  const foreign = request.arch === HOST_ARCH ? null : await namespaceCommand(request.arch, request.signal);
  const mode = foreign ? 'root' : await chooseMode(request.signal);
  // In unshare mode the root of the namespace is another user, who must be able to reach the folder.
  const tmpdir = (mode !== 'unshare' && !foreign) || (await reachable(tmp)) ? tmp : '/var/tmp';
  request.emit({ type: 'note', level: 'debug', message: `mmdebstrap --mode=${mode}, working in ${tmpdir}` });
  const proxy = request.proxy ?? (await hostProxy(request.signal));
  const keyring = request.archive?.keyring ?? '/usr/share/keyrings/debian-archive-keyring.gpg';
  const mergedUsr = '/usr/share/mmdebstrap/hooks/maybe-merged-usr';
  const inside = (script: string): string => `chroot "$1" sh /tmp/bootstrap/${script}`;
  const [command, ...before] = [...(foreign ?? []), 'mmdebstrap'];
  await run(
    command,
    [
      ...before,
      `--mode=${mode}`,
      '--variant=apt',
      '--format=tar',
      `--architectures=${DEB_ARCH[request.arch]}`,
      `--components=${components.replaceAll(' ', ',')}`,
      `--include=${[...basePackages(request.arch), ...request.includes].join(',')}`,
      ...((await exists(keyring)) ? [`--keyring=${keyring}`] : []),
      ...((await exists(mergedUsr)) ? [`--hook-dir=${mergedUsr}`] : []),
      ...(await settings('aptopt', join(support, 'files/etc/apt/apt.conf.d/90dkms2bin'))),
      ...(proxy
        ? [`--aptopt=Acquire::http::Proxy "${proxy}"`, `--aptopt=Acquire::https::Proxy "${proxy}"`]
        : []),
      ...(concessions.expired ? ['--aptopt=Acquire::Check-Valid-Until "false"'] : []),
      ...(await settings('dpkgopt', join(support, 'files/etc/dpkg/dpkg.cfg.d/90dkms2bin'))),
      `--essential-hook=copy-in "${support}" /tmp`,
      `--essential-hook=${inside('prepare.sh')}`,
      `--customize-hook=${inside('customize.sh')}`,
      // namespaceCommand has seen to it that the architecture's programs run.
      '--skip=cleanup/apt,check/qemu',
      request.suite,
      tar,
      ...(await sourceLines({ ...request, extraSuites }, components)),
    ],
    { ...cancel(request), dieWithParent: true, cwd: scratch, env: { ...SBIN, TMPDIR: tmpdir } },
  );
}

/**
 * A settings file's lines as options of mmdebstrap. It takes a path, too, but takes the path for a setting when the root
 * of its namespace may not read it, as in a folder of mode 0700.
 */
async function settings(option: 'aptopt' | 'dpkgopt', path: string): Promise<string[]> {
  const lines = (await readFile(path, 'utf8')).split('\n').filter((line) => line !== '');
  return lines.map((line) => `--${option}=${line}`);
}

/** One-line apt sources for mmdebstrap and the guest; none when no mirror is known: mmdebstrap then uses its own. */
async function sourceLines(request: BootstrapRequest, components: string): Promise<string[]> {
  const { archive } = request;
  const host = archive === undefined && request.mirror === undefined ? await hostMirrors() : {};
  const main = archive?.main ?? request.mirror ?? host.main;
  if (main === undefined) return [];
  const security = archive?.security ?? host.security ?? main.replace(/\/debian(\/*)$/, '/debian-security$1');
  return [request.suite, ...request.extraSuites].map((suite) => {
    const secure = isSecurity(suite, request);
    return `deb ${secure ? security : main} ${suite} ${components}`;
  });
}

function isSecurity(suite: string, request: BootstrapRequest): boolean {
  return suite.endsWith('-security') || suite === request.securitySuite;
}

function componentsOf(suite: string): string {
  const firmware = /^(bullseye|buster|stretch|jessie)/.test(suite) ? '' : ' non-free-firmware';
  return `main contrib non-free${firmware}`;
}

/** The disk as a sparse raw file: partition table, ESP, root file system, boot loader. */
async function writeDisk(context: Context): Promise<void> {
  const { request, scratch, tar, root, raw, uuid } = context;
  const sectors = (request.diskGiB * 1024 * MIB) / SECTOR;
  // The backup partition table needs 33 sectors; leave a whole MiB.
  const rootSectors = sectors - ROOT_START - MIB / SECTOR;
  const fakeState = join(scratch, 'fakeroot');
  await mkdir(root);
  // Ownership lives in fakeroot's state; /dev is devtmpfs's matter.
  await run(
    'fakeroot',
    ['-s', fakeState, 'tar', '-C', root, '-x', '--numeric-owner', '-p', '--exclude=./dev/*', '-f', tar],
    cancel(request),
  );
  // Kernel layers are made from this copy, at native speed.
  await run('zstd', ['-q', '-1', '-T0', '--rm', tar, '-o', request.rootOut], cancel(request));
  // Some suites ship files that nobody may read (gshadow); fakeroot's state keeps their modes, mke2fs has to read them.
  await run(
    'find',
    [root, '-type', 'f', '!', '-perm', '-600', '-exec', 'chmod', 'u+rw', '{}', '+'],
    cancel(request),
  );

  await writeFile(raw, '', { flag: 'wx' });
  await truncate(raw, sectors * SECTOR);
  await run('sfdisk', ['--quiet', '--no-reread', '--no-tell-kernel', raw], {
    ...cancel(request),
    input: partitionTable(uuid, rootSectors),
  });
  const ext4 = ['-t', 'ext4', '-q', '-F', '-L', 'rootfs', '-U', uuid, '-m', '1', '-d', root, '-J', 'size=64'];
  await run(
    'fakeroot',
    [
      ...['-i', fakeState, 'mke2fs', ...ext4],
      ...['-E', `offset=${ROOT_OFFSET},hash_seed=${uuid},lazy_itable_init=1,lazy_journal_init=1,nodiscard`],
      ...[raw, `${Math.floor((rootSectors * SECTOR) / 1024)}k`],
    ],
    { ...cancel(request), env: { MKE2FS_CONFIG: join(scratch, 'bootstrap', 'mke2fs.conf'), ...SBIN } },
  );
  await installBootLoader(context);
}

/** sfdisk's script. The identifiers follow from the root's, so the same request gives the same table. */
function partitionTable(uuid: string, rootSectors: number): string {
  const id = (n: number): string => derivedUuid(`${uuid} ${n}`);
  const part = (n: number, start: number, size: number, type: string): string =>
    `start=${start}, size=${size}, type=${type}, uuid=${id(n)}`;
  return [
    'label: gpt',
    `label-id: ${id(0)}`,
    '',
    part(1, BIOS_BOOT.start, BIOS_BOOT.size, '21686148-6449-6E6F-744E-656564454649'),
    part(2, ESP.start, ESP.size, 'C12A7328-F81F-11D2-BA4B-00A0C93EC93B'),
    part(3, ROOT_START, rootSectors, '0FC63DAF-8483-4772-8E79-3D69D8477DE4'),
    '',
  ].join('\n');
}

/** GRUB for UEFI at the removable-media path, and on x86_64 for BIOS. */
async function installBootLoader({ request, root, raw, uuid }: Context): Promise<void> {
  const grub = join(root, 'boot/grub');
  if (request.arch === 'x86_64') await installBiosLoader(grub, raw);
  const esp = `${raw}@@${ESP.start * SECTOR}`;
  const serial = uuid.slice(0, 8);
  const env = { MTOOLS_SKIP_CHECK: '1' };
  const options = { ...cancel(request), env };
  const geometry = ['-T', String(ESP.size), '-h', '64', '-s', '32', '-c', '4', '-N', serial];
  await run('mformat', ['-i', esp, ...geometry, '-v', 'ESP', '::'], options);
  await clearPartitionTable(raw, ESP.start * SECTOR);
  await run('mmd', ['-i', esp, '::/EFI', '::/EFI/BOOT'], options);
  const { format, file } = EFI_GRUB[request.arch];
  await run('mcopy', ['-i', esp, join(grub, format, 'core.efi'), `::/EFI/BOOT/${file}`], options);
}

/** In the boot sector and the BIOS boot partition. */
async function installBiosLoader(grub: string, raw: string): Promise<void> {
  const boot = await readFile(join(grub, 'i386-pc/boot.img'));
  const core = await readFile(join(grub, 'i386-pc/core.img'));
  if (core.length > BIOS_BOOT.size * SECTOR) {
    throw new Dkms2binError('host', `GRUB's core image has ${core.length} bytes, too many for a bios boot`);
  }
  // What grub-bios-setup does: boot.img loads the sector at 0x5C, whose last block-list entry names the rest.
  boot.writeBigUInt64LE(BigInt(BIOS_BOOT.start), 0x5c);
  // Two nops over the jump at 0x66: do not trust the BIOS's drive number on a hard disk.
  boot.writeUInt16LE(0x9090, 0x66);
  core.writeBigUInt64LE(BigInt(BIOS_BOOT.start + 1), SECTOR - 12);
  const disk = await open(raw, 'r+');
  try {
    // The boot code only: the protective MBR of the GPT follows at 440.
    await disk.write(boot, 0, 440, 0);
    await disk.write(core, 0, core.length, BIOS_BOOT.start * SECTOR);
  } finally {
    await disk.close();
  }
}

/** mformat leaves a partition table in its boot sector; grub-probe warns of each of its entries at every update-grub. */
async function clearPartitionTable(raw: string, offset: number): Promise<void> {
  await using disk = await open(raw, 'r+');
  await disk.write(Buffer.alloc(64), 0, 64, offset + 446);
}

type Mode = 'root' | 'unshare' | 'fakechroot';

/** mmdebstrap's mode: as root its own, else user namespaces where they work, else fakechroot. */
async function chooseMode(signal?: AbortSignal): Promise<Mode> {
  if (process.getuid?.() === 0) return 'root';
  const { username, uid } = userInfo();
  try {
    const entries = (await readFile('/etc/subuid', 'utf8')).split('\n').map((line) => line.split(':')[0]);
    if (!entries.includes(username) && !entries.includes(String(uid))) return 'fakechroot';
    await run('unshare', ['--user', '--map-root-user', 'true'], { ...(signal && { cancelSignal: signal }) });
    await run('newuidmap', [], { ...(signal && { cancelSignal: signal }) }).catch((error: unknown) => {
      // Without arguments it always fails; only its absence matters.
      if (messageOf(error).includes('not installed')) throw error;
    });
    return 'unshare';
  } catch (error) {
    if (signal?.aborted) throw error;
    return 'fakechroot';
  }
}

/** Whether every folder up to the root lets other users through. */
async function reachable(folder: string): Promise<boolean> {
  for (let at = folder; ; at = dirname(at)) {
    if (((await stat(at)).mode & 0o001) === 0) return false;
    if (at === dirname(at)) return true;
  }
}

function cancel(request: BootstrapRequest): { cancelSignal?: AbortSignal; env: NodeJS.ProcessEnv } {
  return { ...(request.signal && { cancelSignal: request.signal }), env: SBIN };
}

/** Of what makes this image this image, so that the same request gives the same file system identifiers. */
function uuidOf(request: BootstrapRequest): string {
  return derivedUuid(JSON.stringify([request.suite, request.arch, request.includes, request.extraSuites]));
}

function derivedUuid(text: string): string {
  const hex = createHash('sha256').update(text).digest('hex');
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `4${hex.slice(13, 16)}`,
    `8${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ].join('-');
}

/** Tells when a step of shared work begins and ends. */
export async function phase<T>(emit: Emit, name: Stage, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  emit({ type: 'phase', state: 'start', phase: name });
  try {
    return await work();
  } finally {
    // Also after a failure: work may go on another way.
    emit({ type: 'phase', state: 'end', phase: name, seconds: (performance.now() - started) / 1000 });
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
