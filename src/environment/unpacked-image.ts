import { copyFile, mkdir, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HOST_ARCH } from '../model/cell.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { run } from '../lib/exec.js';
import { removeScratch, SBIN } from '../lib/namespace.js';
import { qemuImg } from '../lib/qemu-img.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { nativeSandbox } from '../lib/sandbox.js';
import { cached, hashOf, type Entry, type EntryId, type SharedCache } from '../cache/entries.js';
import { onDisk } from './on-disk.js';
import { phase } from './phase.js';

/** For each step of an unpacking; the slowest takes minutes. */
const MAX_SECONDS = 7200;

/** Virtual size of the disks of official images here; the files are sparse. */
export const OFFICIAL_GIB = 16;

/** Where the root file system lies on an image's disk. */
const RootPlace = z.object({
  /** In bytes. */
  rootOffset: z.number(),
  rootUuid: z.string(),
});
type RootPlace = z.infer<typeof RootPlace>;

interface UnpackRequest {
  /** The official image, a qcow2 of any kind, and its cache entry. */
  disk: string;
  of: EntryId;
  /** For people. */
  name: string;
  shared?: SharedCache | undefined;
  emit: Emit;
  signal: AbortSignal;
}

export const unpackedHash = (of: EntryId): string => hashOf(['unpacked-2', of.hash, OFFICIAL_GIB]);

/**
 * An official image as layers are made natively from it: `disk.qcow2`, uncompressed and with a larger root, and `root.tar.zst`. Null,
 * with the reason in a note, when this image or host cannot. Made when the cache lacks it; the caller releases `entry.use`.
 */
export async function unpackedImage(request: UnpackRequest): Promise<Entry<RootPlace> | null> {
  const { of, name, shared, emit, signal } = request;
  try {
    return await cached(
      'images',
      unpackedHash(of),
      async (dir) => {
        const place = await phase(emit, 'image root', () => unpack(request, dir));
        return { name, parents: [of], ...place };
      },
      { about: RootPlace, signal, shared },
    );
  } catch (error) {
    if (!(error instanceof Dkms2binError) || error.fault !== 'host') throw error;
    emit({
      type: 'note',
      level: 'warn',
      message: `Kernel layers of this image are made in a VM, which takes minutes longer: ${error.message}`,
    });
    return null;
  }
}

async function unpack({ disk, signal }: UnpackRequest, dir: string): Promise<RootPlace> {
  const options = { cancelSignal: signal, env: SBIN, dieWithParent: true, timeout: MAX_SECONDS * 1000 };
  const scratch = join(dir, 'unpack');
  const [raw, out] = [join(scratch, 'disk.raw'), join(scratch, 'out')];
  for (const folder of [scratch, out]) await mkdir(folder, { mode: 0o755 });
  await writeFile(raw, '');
  try {
    const { command, handOver } = await nativeSandbox(
      { ...{ arch: HOST_ARCH, scratch, network: false }, readable: [raw], writable: [out] },
      signal,
    );
    await handOver(out);
    const places = { readable: [disk], writable: [raw] };
    await qemuImg(['convert', '-f', 'qcow2', '-O', 'raw', disk, raw], places, options);
    const root = await rootOf(raw, signal);
    const filesystem = `${raw}?offset=${root.rootOffset}`;
    await grow(raw, root, signal);
    const script = join(PACKAGE_ROOT, 'cloud-init', 'layer', 'unpack-root.sh');
    const [program, ...before] = command;
    await run(program, [...before, 'bash', script, out, filesystem], options);
    await copyFile(join(out, 'root.tar.zst'), join(dir, 'root.tar.zst'));
    const made = join(dir, 'disk.qcow2');
    await writeFile(made, '');
    const back = { readable: [raw], writable: [made] };
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', raw, made], back, options);
    return { rootOffset: root.rootOffset, rootUuid: root.rootUuid };
  } finally {
    await removeScratch(scratch);
  }
}

const SECTOR = 512;
const PartitionTable = z.object({
  partitiontable: z.object({
    partitions: z.array(z.object({ node: z.string(), start: z.number(), size: z.number() })).min(1),
  }),
});
type Partition = z.infer<typeof PartitionTable>['partitiontable']['partitions'][number];

async function partitionsOf(raw: string, signal: AbortSignal): Promise<Partition[]> {
  const { stdout } = await onDisk(raw, ['sfdisk', '--json', raw], { cancelSignal: signal });
  try {
    return PartitionTable.parse(JSON.parse(stdout)).partitiontable.partitions;
  } catch (error) {
    throw new Dkms2binError('host', `sfdisk describes the image in an unknown form: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

interface Root extends RootPlace {
  /** Its number in the partition table. */
  number: string;
  /** No partition lies behind it. */
  last: boolean;
}

/** The largest partition. Throws fault `host` when it holds no ext4. */
async function rootOf(raw: string, signal: AbortSignal): Promise<Root> {
  const partitions = await partitionsOf(raw, signal);
  const [largest = { node: '', start: 0, size: 0 }] = partitions.toSorted((a, b) => b.size - a.size);
  const rootOffset = largest.start * SECTOR;
  const { stdout } = await onDisk(raw, ['dumpe2fs', '-h', `${raw}?offset=${rootOffset}`], {
    cancelSignal: signal,
  }).catch((error: unknown) => {
    signal.throwIfAborted();
    throw new Dkms2binError('host', 'its root file system is not ext4', { cause: error });
  });
  const rootUuid = /^Filesystem UUID: +([0-9a-f-]{36})$/m.exec(stdout)?.[1];
  if (rootUuid === undefined) throw new Dkms2binError('host', 'its root file system has no UUID');
  const last = partitions.every(({ start }) => start <= largest.start);
  return { rootOffset, rootUuid, number: largest.node.slice(raw.length), last };
}

/** What growpart and resizefs do at the first boot. A disk that is as large already stays as it is. */
async function grow(raw: string, { rootOffset, number, last }: Root, signal: AbortSignal): Promise<void> {
  const options = { cancelSignal: signal };
  const filesystem = `${raw}?offset=${rootOffset}`;
  await onDisk(raw, ['e2fsck', '-fp', filesystem], options);
  const size = OFFICIAL_GIB * 1024 ** 3;
  // The backup partition table needs 33 sectors; a whole MiB is left.
  const rootKiB = (size - rootOffset) / 1024 - 1024;
  if (!last || (await stat(raw)).size >= rootKiB * 1024) return;
  // Before the file is that long: resize2fs would cut it off at the file system's length, as if that began at 0.
  await onDisk(raw, ['resize2fs', filesystem, `${rootKiB}K`], options);
  await truncate(raw, size);
  await onDisk(raw, ['sfdisk', '--quiet', '--no-reread', '--no-tell-kernel', '-N', number, raw], {
    ...options,
    input: ', +\n',
  });
  const grown = (await partitionsOf(raw, signal)).find(({ start }) => start * SECTOR === rootOffset);
  if (!grown || grown.size * SECTOR < rootKiB * 1024) {
    throw new Dkms2binError('host', "sfdisk did not enlarge the image's root partition");
  }
}
