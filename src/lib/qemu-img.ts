import { lstat, open } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { oneLine } from './text.js';
import { missingTool, type ExecResult, type RunOptions } from './exec.js';
import { runConfined } from './sandbox.js';

const Extent = z.object({
  start: z.number(),
  length: z.number(),
  /** False for a hole. */
  data: z.boolean(),
  zero: z.boolean(),
  /** Where the data lies in the file; absent when it is compressed. */
  offset: z.number().optional(),
});
export type Extent = z.infer<typeof Extent>;

/** Runs qemu-img where it sees these disks alone, and nothing of what builds on others. Paths are absolute. */
export function qemuImg(
  args: readonly string[],
  places: { readable?: readonly string[]; writable?: readonly string[] },
  options: RunOptions = {},
): Promise<ExecResult> {
  return runConfined(places, ['qemu-img', ...args], options);
}

/** The extents of a disk image without a gap, in order; in bytes. Also for a raw file, as node has no lseek. */
export async function extentsOf(
  path: string,
  format: 'raw' | 'qcow2',
  signal?: AbortSignal,
): Promise<Extent[]> {
  const args = ['map', '-U', '-f', format, '--output=json', path];
  const { stdout } = await qemuImg(args, { readable: [path] }, { cancelSignal: signal });
  return read(z.array(Extent), stdout, path);
}

const Info = z.object({
  format: z.string(),
  'virtual-size': z.number(),
  'backing-filename': z.string().optional(),
  'full-backing-filename': z.string().optional(),
  'format-specific': z
    .object({
      data: z.object({ 'data-file': z.string().optional(), corrupt: z.boolean().optional() }).optional(),
    })
    .optional(),
});

/** A qcow2's size as a guest sees it, and what else than itself it refers to. */
export interface Qcow2Info {
  format: string;
  virtualSize: number;
  backing: string | undefined;
  dataFile: string | undefined;
  corrupt: boolean;
}

/** Describes a qcow2 that may come from anywhere: under limits of memory and time, and taken for nothing but a qcow2. */
export async function qcow2Info(path: string, signal?: AbortSignal): Promise<Qcow2Info> {
  const limits = ['--as=1073741824', '--cpu=30'];
  const disk = resolve(path);
  const command = ['prlimit', ...limits, 'qemu-img', 'info', '--output=json', '-f', 'qcow2', disk];
  let stdout: string;
  try {
    const options = { timeout: 60_000, cancelSignal: signal };
    ({ stdout } = await runConfined({ readable: [disk] }, command, options));
  } catch (error) {
    if (/failed to execute qemu-img/.test(messageOf(error))) throw missingTool('qemu-img');
    throw error;
  }
  const info = read(Info, stdout, path);
  const { 'data-file': dataFile, corrupt = false } = info['format-specific']?.data ?? {};
  const backing = info['full-backing-filename'] ?? info['backing-filename'];
  return { format: info.format, virtualSize: info['virtual-size'], backing, dataFile, corrupt };
}

/** How many clusters a qcow2 on `backings` itself holds. Throws fault `host` for a damaged one, or one on others. */
export async function allocatedClusters(
  path: string,
  backings: readonly string[],
  signal?: AbortSignal,
): Promise<number> {
  await requireBackings(path, backings);
  const readable = [path, ...backings];
  const args = ['check', '--output=json', '-f', 'qcow2', path];
  const { stdout } = await qemuImg(args, { readable }, { cancelSignal: signal });
  return read(z.object({ 'allocated-clusters': z.number().default(0) }), stdout, path)['allocated-clusters'];
}

function read<T>(schema: z.ZodType<T>, text: string, path: string): T {
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    throw new Dkms2binError('host', `qemu-img describes ${path} in an unknown form: ${messageOf(error)}`, {
      hint: 'dkms2bin needs QEMU 7 or later; dkms2bin doctor shows the version on this host.',
      cause: error,
    });
  }
}

/** The files that a qcow2 builds on, nearest first; only their headers are read. Fault `host` for a chain without end. */
export async function backingChain(path: string): Promise<string[]> {
  const chain: string[] = [];
  for (let at = path; ;) {
    const below = await backingOf(at);
    if (below === null) return chain;
    at = resolve(dirname(at), below);
    chain.push(at);
    if (chain.length > 16) throw new Dkms2binError('host', `${path} builds on too many other images`);
  }
}

/**
 * Throws fault `host` unless a qcow2 builds on these files, nearest first, and on nothing else. For a disk that a QEMU has written to: one
 * that its guest took over can name any file there, which whoever opens the disk next would read for it. Only headers are read.
 */
export async function requireBackings(disk: string, backings: readonly string[]): Promise<void> {
  const [first = null, ...below] = backings;
  const refuse = (what: string): never => {
    throw new Dkms2binError('host', `The disk ${disk} ${what}: it is not used`, {
      hint: 'Only a QEMU that its guest has taken over does that. Look at what was built in it, and remove the run.',
    });
  };
  if (!(await lstat(disk)).isFile()) refuse('is no plain file any more');
  if (await keepsDataElsewhere(disk)) refuse('now keeps its data in another file');
  const named = await backingOf(disk);
  if (named !== first)
    refuse(`now builds on ${named === null ? 'nothing' : oneLine(named)}, not on ${first ?? 'nothing'}`);
  if (first === null) return;
  const chain = await backingChain(first);
  if (chain.join('\n') !== below.join('\n')) refuse('builds on one that now builds on other files');
}

/** Whether a qcow2 says that its data lies in another file, which older qemu-img opens while it looks (CVE-2024-4467). */
export async function keepsDataElsewhere(path: string): Promise<boolean> {
  await using file = await open(path, 'r');
  const header = Buffer.alloc(80);
  const { bytesRead } = await file.read(header, 0, header.length, 0);
  return bytesRead === header.length && header.readUInt32BE(4) > 2 && (header[79] ?? 0) % 8 >= 4;
}

async function backingOf(path: string): Promise<string | null> {
  await using file = await open(path, 'r');
  const header = Buffer.alloc(20);
  const { bytesRead } = await file.read(header, 0, header.length, 0);
  const [offset, length] = [Number(header.readBigUInt64BE(8)), header.readUInt32BE(16)];
  if (bytesRead < header.length || header.toString('latin1', 0, 4) !== 'QFI\xfb' || offset === 0) return null;
  // It lies in the first cluster, of two MiB at most.
  if (offset > 2 ** 21) throw new Dkms2binError('host', `${path} is no qcow2 that QEMU would open`);
  // The format allows no more.
  const name = Buffer.alloc(Math.min(length, 1023));
  await file.read(name, 0, name.length, offset);
  return name.toString('utf8');
}
