import { mkdir, open, rm, stat, writeFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { run } from '../lib/exec.js';
import { allocatedClusters, backingChain, extentsOf, type Extent } from '../lib/qemu-img.js';

/** Of the qcow2 files that are made here. */
const CLUSTER = 64 * 1024;
const BUFFER = 128 * CLUSTER;

export interface DeltaRequest {
  /** Read-only qcow2 without compressed clusters. */
  base: string;
  /** A raw disk of the base's size. */
  raw: string;
  /** The qcow2 to make: reads as `raw`, and holds only the clusters that differ from `base`, its backing file. */
  out: string;
  /** An existing folder with room for what differs; nothing is left there. */
  workDir: string;
  signal?: AbortSignal;
}

/**
 * Stores the difference of two disks. `qemu-img rebase` does the same, but reads and compares every hole: minutes for a
 * sparse disk. Throws fault `host` when a tool fails or the result is not what was meant to be written.
 */
export async function writeDelta(request: DeltaRequest): Promise<void> {
  const { base, raw, out, signal } = request;
  const cancel = signal ? { cancelSignal: signal } : {};
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, out], cancel);
  const { size } = await stat(raw);
  const old = (await extentsOf(base, 'qcow2', signal)).filter((e) => e.data && !e.zero);
  const now = (await extentsOf(raw, 'raw', signal)).filter((e) => e.data);
  // A cluster that is a hole on both sides is the same.
  const touched = new Uint8Array(Math.ceil(size / CLUSTER));
  for (const { start, length } of [...old, ...now]) {
    touched.fill(1, Math.floor(start / CLUSTER), Math.ceil((start + length) / CLUSTER));
  }
  // qemu-io takes the content of each write from the beginning of a file.
  const pieces = join(request.workDir, 'pieces');
  await mkdir(pieces);
  const baseFile = await open(base, 'r');
  const rawFile = await open(raw, 'r');
  try {
    const commands: string[] = [];
    let written = 0;
    const [was, is] = [Buffer.alloc(BUFFER), Buffer.alloc(BUFFER)];
    for (let first = touched.indexOf(1); first >= 0;) {
      signal?.throwIfAborted();
      const zero = touched.indexOf(0, first);
      const last = Math.min(zero < 0 ? touched.length : zero, first + BUFFER / CLUSTER);
      const at = first * CLUSTER;
      const length = Math.min(size, last * CLUSTER) - at;
      await readMapped(baseFile, old, at, was.subarray(0, length));
      await readWhole(rawFile, at, is.subarray(0, length));
      for (const [from, to] of differences(was.subarray(0, length), is.subarray(0, length))) {
        const name = String(commands.length);
        await writeFile(join(pieces, name), is.subarray(from, to), { flag: 'wx' });
        commands.push(`write -q -s ${name} ${at + from} ${to - from}`);
        written += Math.ceil((to - from) / CLUSTER);
      }
      first = touched.indexOf(1, last);
    }
    await run('qemu-io', ['-f', 'qcow2', '-t', 'unsafe', out], {
      ...cancel,
      cwd: pieces,
      dieWithParent: true,
      input: commands.map((c) => `${c}\n`).join(''),
    });
    const stored = await allocatedClusters(out, [base, ...(await backingChain(base))], signal);
    if (stored !== written)
      throw new Dkms2binError('host', `qemu-io stored ${stored} clusters of ${written}`);
  } finally {
    await baseFile.close();
    await rawFile.close();
    await rm(pieces, { recursive: true, force: true });
  }
}

/** Where two buffers of one length differ: runs of clusters as byte offsets, from and to. */
function differences(a: Buffer, b: Buffer): [number, number][] {
  const runs: [number, number][] = [];
  for (let at = 0; at < a.length; at += CLUSTER) {
    const end = Math.min(a.length, at + CLUSTER);
    if (a.subarray(at, end).equals(b.subarray(at, end))) continue;
    const previous = runs.at(-1);
    if (previous?.[1] === at) previous[1] = end;
    else runs.push([at, end]);
  }
  return runs;
}

/** Fills `into` with the disk's content at `at`; `data` are its extents that are not zero, in order. */
async function readMapped(
  file: FileHandle,
  data: readonly Extent[],
  at: number,
  into: Buffer,
): Promise<void> {
  into.fill(0);
  const end = at + into.length;
  for (const { start, length, offset } of data) {
    if (start >= end) break;
    const from = Math.max(start, at);
    const to = Math.min(start + length, end);
    if (from >= to) continue;
    if (offset === undefined) throw new Dkms2binError('host', 'The base image has compressed clusters');
    await readWhole(file, offset + from - start, into.subarray(from - at, to - at));
  }
}

/** What lies beyond the end of a disk image reads as zeros. */
async function readWhole(file: FileHandle, at: number, into: Buffer): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await file.read(into, done, into.length - done, at + done);
    if (bytesRead === 0) into.fill(0, done);
    done += bytesRead || into.length - done;
  }
}
