import { open } from 'node:fs/promises';
import { Dkms2binError } from '../model/errors.js';
import { qcow2Info, type Qcow2Info } from '../lib/qemu-img.js';

/**
 * Refuses a qcow2 that refers to another file, naming `url`. The header is read here first, since older qemu-img opens an
 * external data file while it looks (CVE-2024-4467).
 */
export async function requireStandalone(path: string, url = path, signal?: AbortSignal): Promise<void> {
  const trouble = headerTrouble(await headerOf(path)) ?? infoTrouble(await qcow2Info(path, signal));
  if (trouble !== null) {
    throw new Dkms2binError('transient', `${url} cannot be used as an image: ${trouble}`);
  }
}

async function headerOf(path: string): Promise<Buffer> {
  const header = Buffer.alloc(104);
  await using file = await open(path, 'r');
  const { bytesRead } = await file.read(header, 0, header.length, 0);
  return header.subarray(0, bytesRead);
}

/** What is wrong with a qcow2 by its header: QEMU's docs/interop/qcow2.txt. */
function headerTrouble(header: Buffer): string | null {
  if (header.length < 72 || header.toString('latin1', 0, 4) !== 'QFI\xfb') return 'not a qcow2 file';
  const version = header.readUInt32BE(4);
  if (version !== 2 && version !== 3) return `qcow2 version ${version}`;
  if (header.readBigUInt64BE(8) !== 0n) return 'it has a backing file';
  if (version === 2) return null;
  if (header.length < 80) return 'its header is cut off';
  const incompatible = header.readBigUInt64BE(72);
  if (incompatible & 4n) return 'it keeps its data in another file';
  if (incompatible & 2n) return 'it is marked corrupt';
  return null;
}

/** What a guest would see of it; a disk is not made larger than 64 GiB here. */
const MAX_VIRTUAL_BYTES = 2 ** 40;

function infoTrouble({ format, backing, dataFile, corrupt, virtualSize }: Qcow2Info): string | null {
  if (virtualSize > MAX_VIRTUAL_BYTES)
    return `it unpacks to ${virtualSize} bytes, the limit is ${MAX_VIRTUAL_BYTES}`;
  if (format !== 'qcow2') return `qemu-img calls it ${format}`;
  if (backing !== undefined) return 'it has a backing file';
  if (dataFile !== undefined) return 'it keeps its data in another file';
  return corrupt ? 'it is marked corrupt' : null;
}
