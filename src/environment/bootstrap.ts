import { cp, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { CONSOLE, DEB_ARCH } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { syncPath } from '../lib/atomic-write.js';
import { run } from '../lib/exec.js';
import { guestUrl } from '../lib/gateway.js';
import { removeScratch } from '../lib/namespace.js';
import { qemuImg } from '../lib/qemu-img.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { plain } from '../lib/text.js';
import { nativeSandbox, type NativeSandbox } from '../lib/sandbox.js';
import { hostMirrors, hostProxy } from '../distro/mirrors.js';
import { derivedUuid, EFI_GRUB, writeDisk } from './bootstrap-disk.js';
import { guestProxy } from './guest-proxy.js';
import { phase } from './phase.js';

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
  signal: AbortSignal;
}

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

/**
 * Makes a bootable qcow2 of a Debian suite from its packages, in a sandbox: without privilege, loop devices or mounts.
 * Resolves with the sorted `name version` lines of all that is installed. Leaves nothing in `workDir`.
 * Throws fault `host` when a tool is missing or fails, quoting it.
 */
export async function bootstrapImage(request: BootstrapRequest): Promise<{ packages: string }> {
  const scratch = join(request.workDir, `bootstrap-${process.pid}`);
  const partial = `${request.out}.part-${process.pid}`;
  const uuid = uuidOf(request);
  const [box, root, raw] = [join(scratch, 'box'), join(scratch, 'own', 'root'), join(scratch, 'disk.raw')];
  const tar = join(box, 'root.tar');
  const { arch, diskGiB, rootOut, emit, signal } = request;
  // The root folder in it has setuid programs, of ids that are nobody's: no other user may start one.
  await mkdir(scratch, { mode: 0o700 });
  try {
    await phase(emit, 'bootstrap packages', () =>
      installFromLivingIndexes({ request, scratch, uuid, box, tar }),
    );
    await phase(emit, 'bootstrap filesystem', () =>
      writeDisk({ arch, diskGiB, uuid, tar, rootOut, root, raw, signal }),
    );
    const packages = await readFile(join(root, 'var/lib/dkms2bin/packages'), 'utf8');
    await phase(emit, 'bootstrap convert', async () => {
      await writeFile(partial, '');
      const places = { readable: [raw], writable: [partial] };
      const args = ['convert', '-f', 'raw', '-O', 'qcow2', raw, partial];
      await qemuImg(args, places, { cancelSignal: signal });
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
  /** Of the root file system to be. */
  uuid: string;
  /** Where mmdebstrap works, and where it puts the root folder. */
  box: string;
  tar: string;
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
  const { request, scratch, box } = context;
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
      await removeScratch(box);
      await rm(join(scratch, 'bootstrap'), { recursive: true, force: true });
    }
  }
}

async function installPackages(context: Context, concessions: Concessions): Promise<void> {
  const { request, box, tar } = context;
  const components = request.archive?.components.join(' ') ?? componentsOf(request.suite);
  const support = await writeSupport(context, components);
  const { dpkg, options } = await hostOptions(request);
  const keyring = request.archive?.keyring;
  const { command } = await placeOf(context, [support, dpkg, ...(keyring === undefined ? [] : [keyring])]);
  const extraSuites = request.extraSuites.filter(
    (suite) => !concessions.withoutSecurity || !isSecurity(suite),
  );
  const mirrors = await mirrorsFor(request);
  const proxy = request.proxy ?? (await hostProxy(request.signal)) ?? '';
  await using through = await guestProxy({ proxy, urls: [mirrors?.main, mirrors?.security] }, 'sandbox');
  const inside = (script: string): string => `chroot "$1" sh /tmp/bootstrap/${script}`;
  const [file, ...before] = command;
  await run(
    file,
    [
      ...before,
      // Root of the sandbox, that is.
      ...['mmdebstrap', '--verbose', '--mode=root', '--variant=apt'],
      '--format=tar',
      `--architectures=${DEB_ARCH[request.arch]}`,
      `--components=${components.replaceAll(' ', ',')}`,
      `--include=${[...basePackages(request.arch), ...request.includes].join(',')}`,
      ...options,
      ...(await settings('aptopt', join(support, 'files/etc/apt/apt.conf.d/90dkms2bin'))),
      ...proxyOptions(through.proxy),
      ...(concessions.expired ? ['--aptopt=Acquire::Check-Valid-Until "false"'] : []),
      ...(await settings('dpkgopt', join(support, 'files/etc/dpkg/dpkg.cfg.d/90dkms2bin'))),
      `--essential-hook=copy-in "${support}" /tmp`,
      `--essential-hook=${inside('prepare.sh')}`,
      `--customize-hook=${inside('customize.sh')}`,
      `--customize-hook=rm "$1${OFFLINE_DPKG}"`,
      // The sandbox has seen to it that the architecture's programs run.
      '--skip=cleanup/apt,check/qemu',
      request.suite,
      tar,
      ...sourceLines({ ...request, extraSuites }, components, mirrors),
    ],
    {
      cancelSignal: request.signal,
      dieWithParent: true,
      env: { TMPDIR: join(box, 'tmp') },
      network: true,
      onLine: (line) => request.emit({ type: 'output', line: plain(line) }),
    },
  );
}

/** The scripts and files of cloud-init/bootstrap with what they have to know of this image; the folder that holds them. */
async function writeSupport({ request, scratch, uuid }: Context, components: string): Promise<string> {
  const support = join(scratch, 'bootstrap');
  await cp(join(PACKAGE_ROOT, 'cloud-init', 'bootstrap'), support, { recursive: true });
  const params = Object.entries({
    ROOT_UUID: uuid,
    SUITE: request.suite,
    // All of them: what is left out of the bootstrap may still have the kernel that is wanted later.
    EXTRA_SUITES: request.extraSuites.join(' '),
    COMPONENTS: components,
    CONSOLE: CONSOLE[request.arch],
    EFI_FORMAT: EFI_GRUB[request.arch].format,
  });
  for (const [key, value] of params) {
    if (!/^[\w. /-]*$/.test(value)) throw new Dkms2binError('usage', `${key} has a bad character: ${value}`);
  }
  const lines = params.map(([key, value]) => `${key}='${value}'\n`);
  await writeFile(join(support, 'params'), lines.join(''));
  return support;
}

/** Where packages are installed on this host. Throws fault `host`, with what to do instead, where that cannot be confined. */
async function placeOf(context: Context, readable: string[]): Promise<NativeSandbox> {
  const { request, scratch, box } = context;
  const { arch, signal } = request;
  const keys = ['/etc/apt/trusted.gpg', '/etc/apt/trusted.gpg.d'];
  for (const folder of [box, join(box, 'tmp')]) await mkdir(folder, { mode: 0o755 });
  try {
    const sandbox = await nativeSandbox(
      { ...{ arch, scratch, network: true }, readable: [...readable, ...keys], writable: [box] },
      signal,
    );
    for (const folder of [box, join(box, 'tmp')]) await sandbox.handOver(folder);
    return sandbox;
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault !== 'host') throw error;
    throw new Dkms2binError(
      'host',
      `Packages cannot be installed in a sandbox on this host: ${error.message}`,
      {
        hint: `${error.hint ?? 'dkms2bin doctor says what is missing.'} Or use --image official, or an image of your own.`,
        cause: error,
      },
    );
  }
}

/** What of this host mmdebstrap is to use. */
async function hostOptions({ archive }: BootstrapRequest): Promise<{ dpkg: string; options: string[] }> {
  const keyring = archive?.keyring ?? '/usr/share/keyrings/debian-archive-keyring.gpg';
  const mergedUsr = '/usr/share/mmdebstrap/hooks/maybe-merged-usr';
  const dpkg = join(PACKAGE_ROOT, 'cloud-init', 'sandbox', 'dpkg');
  const options = [
    ...((await exists(keyring)) ? [`--keyring=${keyring}`] : []),
    ...((await exists(mergedUsr)) ? [`--hook-dir=${mergedUsr}`] : []),
    `--extract-hook=mkdir -p "$(dirname "$1${OFFLINE_DPKG}")" && install -m 755 "${dpkg}" "$1${OFFLINE_DPKG}"`,
    `--aptopt=Dir::Bin::dpkg "${OFFLINE_DPKG}"`,
    '--aptopt=APT::Sandbox::User "root"',
  ];
  return { dpkg, options };
}

/** In the new root it comes before dpkg itself: the packages' scripts have no network. */
const OFFLINE_DPKG = '/usr/local/sbin/dpkg';

const proxyOptions = (used: string): string[] =>
  used ? ['http', 'https'].map((scheme) => `--aptopt=Acquire::${scheme}::Proxy "${used}"`) : [];

/**
 * A settings file's lines as options of mmdebstrap. It takes a path, too, but takes the path for a setting when the root
 * of its namespace may not read it, as in a folder of mode 0700.
 */
async function settings(option: 'aptopt' | 'dpkgopt', path: string): Promise<string[]> {
  const lines = (await readFile(path, 'utf8')).split('\n').filter((line) => line !== '');
  return lines.map((line) => `--${option}=${line}`);
}

/** Where the packages are; undefined when no mirror is known: mmdebstrap then uses its own. */
async function mirrorsFor({
  archive,
  mirror,
}: BootstrapRequest): Promise<{ main: string; security: string } | undefined> {
  const host = archive === undefined && mirror === undefined ? await hostMirrors() : {};
  const main = archive?.main ?? mirror ?? host.main;
  if (main === undefined) return undefined;
  const security = archive?.security ?? host.security ?? main.replace(/\/debian(\/*)$/, '/debian-security$1');
  return { main, security };
}

/** One-line apt sources for mmdebstrap and the guest. */
const sourceLines = (
  { suite, extraSuites }: BootstrapRequest,
  components: string,
  mirrors: { main: string; security: string } | undefined,
): string[] =>
  mirrors === undefined
    ? []
    : [suite, ...extraSuites].map(
        (each) => `deb ${guestUrl(isSecurity(each) ? mirrors.security : mirrors.main)} ${each} ${components}`,
      );

const isSecurity = (suite: string): boolean => suite.endsWith('-security');

function componentsOf(suite: string): string {
  const firmware = /^(bullseye|buster|stretch|jessie)/.test(suite) ? '' : ' non-free-firmware';
  return `main contrib non-free${firmware}`;
}

/** Of what makes this image this image, so that the same request gives the same file system identifiers. */
function uuidOf(request: BootstrapRequest): string {
  return derivedUuid(JSON.stringify([request.suite, request.arch, request.includes, request.extraSuites]));
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
