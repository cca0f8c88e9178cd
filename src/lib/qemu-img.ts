import { open } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { missingTool, run } from './exec.js';

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

/** The extents of a disk image without a gap, in order; in bytes. Also for a raw file, as node has no lseek. */
export async function extentsOf(
  path: string,
  format: 'raw' | 'qcow2',
  signal?: AbortSignal,
): Promise<Extent[]> {
  const { stdout } = await run('qemu-img', ['map', '-U', '-f', format, '--output=json', path], {
    cancelSignal: signal,
  });
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
  let stdout: string;
  try {
    ({ stdout } = await run(
      'prlimit',
      [...limits, 'qemu-img', 'info', '--output=json', '-f', 'qcow2', path],
      { timeout: 60_000, cancelSignal: signal },
    ));
  } catch (error) {
    if (/failed to execute qemu-img/.test(messageOf(error))) throw missingTool('qemu-img');
    throw error;
  }
  const info = read(Info, stdout, path);
  const { 'data-file': dataFile, corrupt = false } = info['format-specific']?.data ?? {};
  const backing = info['full-backing-filename'] ?? info['backing-filename'];
  return { format: info.format, virtualSize: info['virtual-size'], backing, dataFile, corrupt };
}

/** How many clusters a qcow2 itself holds. Throws fault `host` for a damaged one. */
export async function allocatedClusters(path: string, signal?: AbortSignal): Promise<number> {
  const { stdout } = await run('qemu-img', ['check', '--output=json', '-f', 'qcow2', path], {
    cancelSignal: signal,
  });
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

async function backingOf(path: string): Promise<string | null> {
  await using file = await open(path, 'r');
  const header = Buffer.alloc(20);
  const { bytesRead } = await file.read(header, 0, header.length, 0);
  const [offset, length] = [Number(header.readBigUInt64BE(8)), header.readUInt32BE(16)];
  if (bytesRead < header.length || header.toString('latin1', 0, 4) !== 'QFI\xfb' || offset === 0) return null;
  // The format allows no more.
  const name = Buffer.alloc(Math.min(length, 1023));
  await file.read(name, 0, name.length, offset);
  return name.toString('utf8');
}
