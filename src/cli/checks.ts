import { access, constants, stat, statfs } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { HOST_ARCH, type Arch } from '../model/cell.js';
import { messageOf } from '../model/errors.js';
import { cacheDir, runsDir, socketParent } from '../lib/paths.js';
import { formatBytes } from '../lib/units.js';
import { oneLine } from '../lib/text.js';
import type { Check } from './check.js';
import type { CliContext } from './context.js';
import { confinementChecks } from './confinement-checks.js';

interface Tool {
  file: string;
  package: string;
  use: string;
  /** What its absence means, when work goes on without it. */
  optional?: string;
}

const TOOLS: readonly Tool[] = [
  { file: 'qemu-img', package: 'qemu-utils', use: 'makes disks and layers' },
  { file: 'ssh', package: 'openssh-client', use: 'talks to the VMs' },
  { file: 'ssh-keygen', package: 'openssh-client', use: "makes a run's keys" },
  { file: 'flock', package: 'util-linux', use: 'locks the cache' },
  { file: 'setpriv', package: 'util-linux', use: 'ends a VM when dkms2bin dies' },
  {
    file: 'bwrap',
    package: 'bubblewrap',
    use: 'confines QEMU, and what packages run on this host',
    optional: 'kernel layers are then made in VMs, and QEMU sees your files; root needs it',
  },
  { file: 'xorriso', package: 'xorriso', use: 'writes the cloud-init seed' },
  { file: 'tar', package: 'tar', use: 'reads module sources' },
  { file: 'xz', package: 'xz-utils', use: 'reads package indexes' },
  {
    file: 'gpgv',
    package: 'gpgv',
    use: 'checks signatures of package indexes',
    optional: 'they are not checked without it',
  },
  ...(
    [
      ['mmdebstrap', 'mmdebstrap'],
      ['newuidmap', 'uidmap'],
      ['fakeroot', 'fakeroot'],
      ['unshare', 'util-linux'],
      ['zstd', 'zstd'],
      ['sfdisk', 'fdisk'],
      ['mke2fs', 'e2fsprogs'],
      ['debugfs', 'e2fsprogs'],
      ['mcopy', 'mtools'],
      ['qemu-io', 'qemu-utils'],
    ] as const
  ).map(([file, name]) => ({
    file,
    package: name,
    use: 'makes images',
    optional: 'needed only for --image bootstrap',
  })),
];

/** QEMU's package and what UEFI firmware is called, by the guests' architecture. */
const GUESTS: Record<Arch, { qemu: string; firmware: string; places: readonly string[] }> = {
  x86_64: {
    qemu: 'qemu-system-x86',
    firmware: 'ovmf',
    // The places of vm/vm.ts.
    places: [
      '/usr/share/OVMF/OVMF_CODE_4M.fd',
      '/usr/share/OVMF/OVMF_CODE.fd',
      '/usr/share/edk2/ovmf/OVMF_CODE.fd',
    ],
  },
  aarch64: {
    qemu: 'qemu-system-arm',
    firmware: 'qemu-efi-aarch64',
    places: ['/usr/share/AAVMF/AAVMF_CODE.fd', '/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw'],
  },
};

/** Below the first figure a build cannot work, below the second it may run out. */
const SPACE = { least: 2 * 1024 ** 3, comfortable: 8 * 1024 ** 3 };

const filesOf = (arch: Arch): { name: string; paths: readonly string[]; package: string; use: string }[] =>
  [
    {
      name: 'UEFI firmware',
      paths: GUESTS[arch].places,
      package: GUESTS[arch].firmware,
      use: 'needed only for images that boot by UEFI',
    },
    {
      name: 'Debian keyring',
      paths: ['/usr/share/keyrings/debian-archive-keyring.gpg'],
      package: 'debian-archive-keyring',
      use: 'package indexes are not checked without it; needed for --image bootstrap',
    },
  ] as const;

async function fileChecks(arch: Arch): Promise<Check[]> {
  return Promise.all(
    filesOf(arch).map(async ({ name, paths, package: pkg, use }): Promise<Check> => {
      for (const path of paths) {
        const readable = await access(path, constants.R_OK).then(
          () => true,
          () => false,
        );
        if (readable) return { name, status: 'ok', detail: path, remedy: null };
      }
      return { name, status: 'warn', detail: `not found (${use})`, remedy: `sudo apt-get install ${pkg}` };
    }),
  );
}

async function which(file: string, path: string): Promise<string | null> {
  for (const folder of path.split(delimiter).filter((f) => f !== '')) {
    const candidate = join(folder, file);
    try {
      await access(candidate, constants.X_OK);
      if ((await stat(candidate)).isFile()) return candidate;
    } catch {
      // Not in this folder.
    }
  }
  return null;
}

async function toolChecks(path: string, arch: Arch): Promise<Check[]> {
  const qemu: Tool = { file: `qemu-system-${arch}`, package: GUESTS[arch].qemu, use: 'runs the VMs' };
  return Promise.all(
    [qemu, ...TOOLS].map(async (tool): Promise<Check> => {
      const found = await which(tool.file, path);
      if (found) return { name: tool.file, status: 'ok', detail: found, remedy: null };
      const detail = `not found (${tool.use}${tool.optional === undefined ? '' : `; ${tool.optional}`})`;
      const remedy = `sudo apt-get install ${tool.package}`;
      return { name: tool.file, status: tool.optional === undefined ? 'missing' : 'warn', detail, remedy };
    }),
  );
}

async function qemuCheck(path: string, arch: Arch): Promise<Check[]> {
  const qemu = await which(`qemu-system-${arch}`, path);
  if (!qemu) return [];
  const { run } = await import('../lib/exec.js');
  try {
    const { stdout } = await run(qemu, ['--version'], { timeout: 10_000 });
    const version = /version (\d+)\.(\d+)[\w.]*/.exec(stdout);
    if (!version || Number(version[1]) < 7)
      return [
        {
          name: 'QEMU version',
          status: 'warn',
          detail: stdout.split('\n')[0] ?? '',
          remedy: 'Use QEMU 7.2 or newer: older ones have not been tested',
        },
      ];
    return [
      { name: 'QEMU version', status: 'ok', detail: version[0].slice('version '.length), remedy: null },
    ];
  } catch (error) {
    return [
      {
        name: 'QEMU version',
        status: 'missing',
        detail: messageOf(error),
        remedy: `sudo apt-get install --reinstall ${GUESTS[arch].qemu}`,
      },
    ];
  }
}

async function acceleratorChecks(context: CliContext, arch: Arch): Promise<Check[]> {
  if (arch !== HOST_ARCH) {
    const detail = `tcg: KVM cannot run ${arch} guests on an ${HOST_ARCH} host`;
    return [{ name: 'accelerator', status: 'ok', detail, remedy: null }];
  }
  try {
    const report = await context.engine.probeAccelerators({ signal: context.signal });
    const rows: Check[] = report.candidates.map((c) => ({
      name: c.name.toUpperCase(),
      status: c.usable ? 'ok' : 'warn',
      detail: c.figure,
      remedy: null,
    }));
    rows.push({
      name: 'accelerator',
      status: report.chosen === null ? 'missing' : 'ok',
      detail: report.chosen === null ? report.reason : `${report.chosen}: ${report.reason}`,
      remedy: null,
    });
    return rows;
  } catch (error) {
    if (context.signal.aborted) throw error;
    return [{ name: 'accelerator', status: 'missing', detail: messageOf(error), remedy: null }];
  }
}

/** The folder itself, or the nearest one above it that exists. */
async function existing(folder: string): Promise<string> {
  let at = folder;
  for (;;) {
    try {
      await stat(at);
      return at;
    } catch {
      if (dirname(at) === at) return at;
      at = dirname(at);
    }
  }
}

async function folderCheck(name: string, folder: string, needsSpace: boolean): Promise<Check> {
  const base = await existing(folder);
  try {
    await access(base, constants.W_OK | constants.X_OK);
  } catch {
    return {
      name,
      status: 'missing',
      detail: `${folder}: cannot write to ${base}`,
      remedy: `Make ${base} writable, or choose another folder (${remedyVariable(name)})`,
    };
  }
  if (!needsSpace) return { name, status: 'ok', detail: folder, remedy: null };
  const fs = await statfs(base);
  const free = fs.bavail * fs.bsize;
  const detail = `${folder} (${formatBytes(free)} free)`;
  const remedy = `Free some space, or choose another folder (${remedyVariable(name)})`;
  if (free < SPACE.least) return { name, status: 'missing', detail, remedy };
  if (free < SPACE.comfortable) return { name, status: 'warn', detail, remedy };
  return { name, status: 'ok', detail, remedy: null };
}

const remedyVariable = (name: string): string =>
  ({ cache: 'DKMS2BIN_CACHE', state: 'DKMS2BIN_STATE' })[name] ?? 'XDG_RUNTIME_DIR or TMPDIR';

/** Runs one: whether qemu-user is there, and registered or registrable in a namespace. */
async function foreignProgramsCheck(context: CliContext, arch: Arch): Promise<Check> {
  const name = `${arch} programs`;
  const [{ nativeSandbox }, { scratch }] = await Promise.all([
    import('../lib/sandbox.js'),
    import('../lib/scratch.js'),
  ]);
  try {
    await using place = await scratch();
    const contents = { readable: [], writable: [], network: false };
    await nativeSandbox({ arch, scratch: place.dir, ...contents }, context.signal);
    return { name, status: 'ok', detail: 'run by qemu-user', remedy: null };
  } catch (error) {
    if (context.signal.aborted) throw error;
    const remedy = 'Only needed for --image bootstrap: sudo apt-get install qemu-user-static';
    return { name, status: 'warn', detail: oneLine(messageOf(error)), remedy };
  }
}

/** Everything that doctor looks at for guests of `arch`, in the order in which it is shown. */
export async function collectChecks(context: CliContext, arch: Arch): Promise<Check[]> {
  const path = context.env['PATH'] ?? '';
  const tools = await toolChecks(path, arch);
  const has = (name: string): boolean => tools.some((each) => each.name === name && each.status === 'ok');
  const haveQemu = has(`qemu-system-${arch}`);
  return [
    ...tools,
    ...(await fileChecks(arch)),
    ...(await qemuCheck(path, arch)),
    ...(haveQemu ? await acceleratorChecks(context, arch) : []),
    ...(await confinementChecks(context, arch, { qemu: haveQemu, bwrap: has('bwrap') })),
    ...(arch === HOST_ARCH ? [] : [await foreignProgramsCheck(context, arch)]),
    await folderCheck('cache', cacheDir(), true),
    await folderCheck('state', runsDir(), true),
    await folderCheck('sockets', socketParent(), false),
  ];
}
