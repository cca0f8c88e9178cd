import { execa } from 'execa';
import { chmod, copyFile, cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { removeScratch } from '../lib/namespace.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { backingChain, qemuImg } from '../lib/qemu-img.js';
import { nativeSandbox, type NativeSandbox } from '../lib/sandbox.js';
import { plain } from '../lib/text.js';
import type { GuestOutput } from '../guest/guest.js';
import {
  installKernelText,
  type InstallProgram,
  type InstallVariables,
} from '../guest/programs/install-kernel.js';
import { provisionText, type Provision } from '../guest/programs/provision.js';
import type { ImageRoot } from './base-image.js';
import { debugfsCommands } from './debugfs.js';
import { writeDelta } from './delta.js';
import { onDisk } from './on-disk.js';
import { phase } from './phase.js';
import { childEnvironment } from '../lib/variables.js';

export interface NativeLayerRequest {
  arch: Arch;
  /** The image: its root folder and its disk, a qcow2 without compressed clusters. */
  root: ImageRoot;
  disk: string;
  release: string;
  /** What of cloud-init/guest to run in the root folder, with its variables, and the command that then lists its packages. */
  install: { script: InstallProgram; vars: InstallVariables; list: string };
  provision: Provision;
  /** Files of cloud-init/guest to put into the layer: path in the guest, mode. */
  files: { from: string; to: string; mode: number }[];
  /** An existing folder: gets `disk.qcow2`, `vmlinuz`, `initrd`, `config` and `packages`. */
  dir: string;
  emit: Emit;
  signal: AbortSignal;
}

/**
 * Installs a kernel into a copy of an image's root at native speed, and writes what changed as a qcow2 on top of the
 * image's disk. In a sandbox, in which the packages' scripts have no network either. Extended attributes are not kept. Throws fault `host` where namespaces do
 * not work, and for a change that cannot be written.
 */
export async function nativeLayer(request: NativeLayerRequest): Promise<GuestOutput> {
  const { arch, dir, disk, emit, signal } = request;
  const scratch = join(dir, 'native');
  const [input, out, raw] = [join(scratch, 'in'), join(scratch, 'out'), join(scratch, 'disk.raw')];
  // The root folder in it has setuid programs, of ids that are nobody's: no other user may start one.
  await mkdir(scratch, { mode: 0o700 });
  for (const folder of [input, out]) await mkdir(folder, { mode: 0o755 });
  await writeFile(raw, '');
  const places = { readable: [disk, ...(await backingChain(disk))], writable: [raw] };
  const copying = qemuImg(['convert', '-f', 'qcow2', '-O', 'raw', disk, raw], places, {
    cancelSignal: signal,
    dieWithParent: true,
  });
  // Waited for where it is needed.
  copying.catch(() => undefined);
  try {
    const sandbox = await nativeSandbox(
      { ...{ arch, scratch, network: true }, readable: [input, request.root.tar], writable: [out, raw] },
      signal,
    );
    await prepare(request, input);
    await sandbox.handOver(out);
    const installed = await phase(emit, 'kernel packages', () =>
      install(request, { input, out, sandbox, raw, copying }),
    );
    if (installed.code !== 0) return installed;
    await phase(emit, 'kernel layer disk', async () => {
      await onDisk(raw, ['e2fsck', '-fn', fileSystemOf(raw, request.root)], { cancelSignal: signal });
      await writeDelta({ base: disk, raw, out: join(dir, 'disk.qcow2'), workDir: scratch, signal });
      for (const name of ['vmlinuz', 'initrd', 'config', 'packages'])
        await copyFile(join(out, name), join(dir, name));
    });
    return installed;
  } finally {
    await copying.catch(() => undefined);
    await removeScratch(scratch);
  }
}

/** The root file system of a raw disk, as e2fsprogs takes it. */
const fileSystemOf = (raw: string, { offset }: ImageRoot): string => `${raw}?offset=${offset}`;

async function prepare(request: NativeLayerRequest, into: string): Promise<void> {
  const guest = join(PACKAGE_ROOT, 'cloud-init', 'guest');
  await mkdir(join(into, 'files'));
  const program = await installKernelText(request.install.script, request.install.vars);
  await writeFile(join(into, 'install-kernel.sh'), program);
  await writeFile(join(into, 'list-packages.sh'), `${request.install.list}\n`);
  await writeFile(join(into, 'provision.sh'), await provisionText(request.provision));
  for (const { from, to, mode } of request.files) {
    const path = join(into, 'files', to);
    await mkdir(join(path, '..'), { recursive: true });
    await cp(join(guest, from), path);
    await chmod(path, mode);
  }
  await cp(join(PACKAGE_ROOT, 'cloud-init', 'sandbox', 'dpkg'), join(into, 'dpkg'));
  await chmod(join(into, 'dpkg'), 0o755);
  await writeFile(join(into, 'apt.conf'), APT_CONF);
}

/** Its own user is of no use where there is one range of ids only; scripts run without a network; signatures count. */
const APT_CONF = `APT::Sandbox::User "root";
Dir::Bin::dpkg "/tmp/in/dpkg";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
`;

interface Work {
  input: string;
  out: string;
  sandbox: NativeSandbox;
  /** The image's disk, there once `copying` has resolved. */
  raw: string;
  copying: Promise<unknown>;
}

/** Runs native-layer.sh, and gives it debugfs's commands when it has installed the packages. */
async function install(request: NativeLayerRequest, work: Work): Promise<GuestOutput> {
  const { emit, signal, root, release } = request;
  const { input, out, sandbox, raw } = work;
  const script = join(PACKAGE_ROOT, 'cloud-init', 'layer', 'native-layer.sh');
  const reports: GuestOutput['reports'] = [];
  const tail: string[] = [];
  let failure: Error | undefined;
  // The kill takes all that runs in the sandbox with it.
  const child = execa(
    'setpriv',
    [
      ...['--pdeathsig', 'KILL', '--', ...sandbox.command],
      ...['bash', script, input, out, root.tar, release, fileSystemOf(raw, root)],
    ],
    {
      reject: false,
      all: true,
      buffer: false,
      cancelSignal: signal,
      killSignal: 'SIGKILL',
      env: childEnvironment({}, true),
      extendEnv: false,
    },
  );
  for await (const line of child.iterable({ from: 'all' })) {
    const text = plain(String(line));
    const [, key, value = ''] = /^@@dkms2bin (\S{1,64}) ?(.*)$/.exec(text) ?? [];
    if (key === 'installed') {
      try {
        await writeCommands(work);
        child.stdin.end('go\n');
      } catch (error) {
        failure = error as Error;
        child.stdin.end();
      }
    } else if (key !== undefined) reports.push({ key, value });
    else {
      tail.push(text);
      if (tail.length > 40) tail.shift();
      emit({ type: 'output', line: text });
    }
  }
  const result = await child;
  if (result.isCanceled || signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
  if (failure) throw failure;
  // install-kernel-apt.sh uses none of 1, 126 and 127: those are the host's.
  if (result.exitCode === undefined || [1, 126, 127].includes(result.exitCode)) {
    throw new Dkms2binError(
      'host',
      `The kernel could not be installed outside a VM:\n${tail.slice(-6).join('\n')}`,
    );
  }
  if (result.exitCode === 0) await requireNoComplaints(out);
  return { code: result.exitCode, tail: tail.join('\n'), reports };
}

/** What debugfs is to do, once the packages are installed. */
async function writeCommands({ input, out, sandbox, raw, copying }: Work): Promise<void> {
  await copying;
  await sandbox.handOver(raw);
  const before = await readFile(join(out, 'before'), 'utf8');
  const after = await readFile(join(out, 'after'), 'utf8');
  await writeFile(join(input, 'commands'), debugfsCommands(before, after, join(out, 'root')));
}

/** debugfs exits 0 whatever happened to its commands; after its own name and version it complains on stderr. */
async function requireNoComplaints(out: string): Promise<void> {
  const complaints = (await readFile(join(out, 'complaints'), 'utf8'))
    .split('\n')
    .filter((line) => line !== '' && !/^debugfs \d/.test(line));
  if (complaints.length > 0) {
    throw new Dkms2binError(
      'host',
      `debugfs could not write the layer: ${complaints.slice(0, 5).join('; ')}`,
    );
  }
}
