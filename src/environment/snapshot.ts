import { readFile, rm, stat, statfs, truncate, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { cacheDir, PACKAGE_ROOT } from '../lib/paths.js';
import { requireBackings } from '../lib/qemu-img.js';
import { cached, hashOf, isCached, type Entry } from '../cache/entries.js';
import { programText } from '../guest/program.js';
import { settle } from '../guest/programs/settle.js';
import { qemuArgs, type Network } from '../vm/args.js';
import { mapsReadOnly, qemuIdentity } from '../vm/qemu-binary.js';
import type { KernelLayer } from './kernel-layer.js';
import { compilerRoot, type CompilerRoot } from './compiler-root.js';
import { phase } from './phase.js';
import {
  bootClone,
  bootNew,
  configOf,
  deadline,
  removeAccess,
  specOf,
  type Booted,
  type BootSpec,
  type Machine,
} from './boot.js';
import { variable } from '../lib/variables.js';

/** A kernel layer that has booted and settled, frozen: clones go on from there. */
interface Snapshot {
  /** What it was made with; a clone differs in its disk, its sockets and the way its memory is mapped alone. */
  spec: BootSpec;
  /** Read-only overlay on the layer with what the boot wrote. */
  disk: string;
  /** Null when the state holds it. */
  memory: string | null;
  state: string;
  seed: string;
  entry: Entry;
}

/**
 * The memory snapshot of `layer` for VMs of this machine's shape and this host's QEMU; made when the cache lacks it.
 * The caller releases `entry.use` when no VM uses it any more. Rejects with fault `host` where snapshots cannot work.
 */
async function snapshotOf(layer: KernelLayer, machine: Machine): Promise<Snapshot> {
  const { spec, mapped, hash } = await recipeOf(layer, machine);
  const what = layer.variant === 'runtime' ? 'runtime snapshot' : 'snapshot';
  const entry = await cached(
    'snapshots',
    hash,
    async (dir) => {
      await phase(machine.emit, `memory snapshot ${layer.release}`, () =>
        make({ layer, spec, mapped }, machine, dir),
      );
      return {
        name: `${what} ${layer.release}`,
        parents: [{ kind: 'layers', hash: basename(layer.entry.dir) }],
      };
    },
    { signal: machine.signal },
  );
  return {
    spec,
    disk: join(entry.dir, 'disk.qcow2'),
    memory: mapped ? join(entry.dir, 'ram') : null,
    state: join(entry.dir, 'state'),
    seed: join(entry.dir, 'seed.iso'),
    entry,
  };
}

/** Of a layer, what its snapshot is known by and boots from. */
type SnapshotBase = Pick<KernelLayer, 'boot' | 'variant'> & { entry: Pick<Entry, 'dir' | 'meta'> };

/** How a layer's snapshot is made, and what names it. */
async function recipeOf(
  layer: SnapshotBase,
  machine: Machine,
): Promise<{ spec: BootSpec; mapped: boolean; hash: string }> {
  // The card that leads out gets its addresses, and leads nowhere.
  const spec: BootSpec = { ...specFor(layer, 'none', machine), egress: true };
  const mapped = await mapsReadOnly(machine.arch, machine.signal);
  const hash = hashOf([
    'snapshot-2',
    basename(layer.entry.dir),
    layer.entry.meta.created,
    await qemuIdentity(machine.arch),
    machine.accel === 'kvm' ? await hostCpu() : null,
    // Every device and option, with stand-ins for this run's own paths.
    qemuArgs({
      ...(await configOf(
        '/',
        { ...spec, backings: [] },
        mapped ? { kind: 'file', path: '/ram', shared: true } : { kind: 'own' },
      )),
      ...{
        qmpSocket: '',
        consoleSocket: '',
        consolePipe: '',
        channelSocket: '',
        compilerSocket: '',
        forwardSocket: spec.forward ? '' : null,
      },
    }),
    [await programText('settle.sh', {}), await guestText('../user-data.yaml')],
  ]);
  return { spec, mapped, hash };
}

/** Whether the cache has the layer's snapshot; true also where none is used. */
export async function hasSnapshot(layer: SnapshotBase, machine: Machine): Promise<boolean> {
  if (variable('DKMS2BIN_NO_SNAPSHOT')) return true;
  const { hash } = await recipeOf(layer, machine);
  return isCached('snapshots', hash);
}

const guestText = (name: string): Promise<string> =>
  readFile(join(PACKAGE_ROOT, 'cloud-init', 'guest', name), 'utf8');

async function hostCpu(): Promise<string> {
  const text = await readFile('/proc/cpuinfo', 'utf8').catch(() => '');
  const [first = ''] = text.split('\n\n');
  const lines = first.split('\n');
  return lines.filter((line) => /^(vendor_id|model|stepping|microcode|flags)\b/.test(line)).join('\n');
}

async function make(
  { layer, spec, mapped }: { layer: KernelLayer; spec: BootSpec; mapped: boolean },
  machine: Machine,
  dir: string,
): Promise<void> {
  const file = { kind: 'file' as const, path: join(dir, 'ram'), shared: true };
  if (mapped) await writeFile(file.path, '', { flag: 'wx', mode: 0o600 });
  let backings: readonly string[];
  {
    const memory = mapped ? { memory: file } : {};
    await using booted = await bootNew({ backing: layer.disk, spec, ...memory }, dir, machine);
    const { guest, vm } = booted;
    const running = (await guest.text('uname -r')).trim();
    if (running !== layer.release) {
      throw new Dkms2binError('transient', `The VM booted kernel ${running} instead of ${layer.release}`);
    }
    await vm.cutEgress();
    for (const message of await settle(guest, deadline(machine.accel, 60)))
      machine.emit({ type: 'note', level: 'warn', message });
    await vm.save(join(dir, 'state'));
    ({ backings } = vm);
  }
  await requireBackings(join(dir, 'disk.qcow2'), backings);
  // The keys are dead: settle.sh took them out of the guest. The device stays, with its size.
  const seed = join(dir, 'seed.iso');
  const { size } = await stat(seed);
  await truncate(seed, 0);
  await truncate(seed, size);
  await removeAccess(dir);
  await rm(join(dir, 'console.log'), { force: true });
}

/** How a layer's VMs boot. One that stands for a target machine has an address that leads to a repository. */
const specFor = (
  layer: Pick<KernelLayer, 'boot' | 'variant'>,
  network: Network,
  machine: Machine,
): BootSpec =>
  specOf(machine, {
    ...{ boot: layer.boot, control: 'channel', network, egress: network === 'egress' },
    forward: layer.variant === 'runtime',
  });

/** Where the VMs of one kernel come from. */
export interface KernelEnvironment {
  layer: KernelLayer;
  /** Null where snapshots do not work: then each VM boots. */
  snapshot: Snapshot | null;
  /** The layer's compiler and headers, as this machine runs and reads them; without it compilations stay in the VM. */
  compiler?: CompilerRoot | null;
}

const SNAPSHOT_BYTES = 6 * 1024 ** 3;

/** The layer's snapshot when it can be had; else says why once. */
export async function kernelEnvironmentOf(layer: KernelLayer, machine: Machine): Promise<KernelEnvironment> {
  try {
    if (variable('DKMS2BIN_NO_SNAPSHOT')) throw new Dkms2binError('host', 'DKMS2BIN_NO_SNAPSHOT is set');
    const space = await statfs(cacheDir());
    if (space.bavail * space.bsize < SNAPSHOT_BYTES) {
      throw new Dkms2binError('host', `less than 6 GiB is free in ${cacheDir()}`);
    }
    const snapshot = await snapshotOf(layer, machine);
    // It answers for what the guest has not changed since then.
    return { layer, snapshot, compiler: await compilerRoot(layer, machine) };
  } catch (error) {
    return { layer, snapshot: withoutSnapshot(error, machine) };
  }
}

/** A VM of this kernel in `dir`: a clone of the snapshot, or a cold boot of the layer. */
export async function bootOn(
  environment: KernelEnvironment,
  network: Network,
  dir: string,
  machine: Machine,
): Promise<Booted> {
  if (environment.snapshot) {
    try {
      return await bootClone(environment.snapshot, network, dir, machine);
    } catch (error) {
      environment.snapshot = withoutSnapshot(error, machine);
      await rm(join(dir, 'disk.qcow2'), { force: true });
    }
  }
  const { layer } = environment;
  return bootNew({ backing: layer.disk, spec: specFor(layer, network, machine) }, dir, machine);
}

/** What goes wrong with a snapshot costs time, not the build; an interrupt is no such fault. */
function withoutSnapshot(error: unknown, machine: Machine): null {
  if (!(error instanceof Dkms2binError) || machine.signal.aborted) throw error;
  machine.emit({
    type: 'note',
    level: 'warn',
    message: `Booting cold, without a memory snapshot: ${error.message}`,
  });
  return null;
}
