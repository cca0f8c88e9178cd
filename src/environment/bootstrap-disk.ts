import { createHash } from 'node:crypto';
import { mkdir, open, readFile, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { removeScratch } from '../lib/namespace.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { onDisk } from './on-disk.js';

/** GRUB's package and format for UEFI, and what UEFI looks for on removable media. */
export const EFI_GRUB: Record<Arch, { package: string; format: string; file: string }> = {
  x86_64: { package: 'grub-efi-amd64-bin', format: 'x86_64-efi', file: 'BOOTX64.EFI' },
  aarch64: { package: 'grub-efi-arm64-bin', format: 'arm64-efi', file: 'BOOTAA64.EFI' },
};

const SECTOR = 512;
const MIB = 1024 * 1024;
/** The layout in sectors: BIOS boot partition, ESP, root. Root is last so that growpart can enlarge it. */
const BIOS_BOOT = { start: 2048, size: 2048 };
const ESP = { start: 4096, size: 131072 };
const ROOT_START = ESP.start + ESP.size;
/** Where the root file system begins, in bytes. */
export const ROOT_OFFSET = ROOT_START * SECTOR;

export interface DiskRequest {
  arch: Arch;
  /** Virtual size; the file is sparse. */
  diskGiB: number;
  /** Of the root file system: the boot loader finds it by this. */
  uuid: string;
  /** The root folder as a tar, which is removed. */
  tar: string;
  /** Where it goes, packed with zstd. */
  rootOut: string;
  /** A folder to unpack it into, in a new folder of its own. */
  root: string;
  /** The disk to make. */
  raw: string;
  signal: AbortSignal;
}

/** The disk as a sparse raw file: partition table, ESP, root file system, boot loader. */
export async function writeDisk(request: DiskRequest): Promise<void> {
  const { tar, root, raw, uuid } = request;
  const fakeState = `${root}.fakeroot`;
  const options = { cancelSignal: request.signal };
  // What packages have put there is read and written by programs that see this folder alone, and nobody else enters it.
  const place = dirname(root);
  await mkdir(place, { mode: 0o700 });
  const sectors = (request.diskGiB * 1024 * MIB) / SECTOR;
  // The backup partition table needs 33 sectors; leave a whole MiB.
  const rootSectors = sectors - ROOT_START - MIB / SECTOR;
  await mkdir(root);
  // Ownership lives in fakeroot's state; /dev is devtmpfs's matter.
  const unpack = ['tar', '-C', root, '-x', '--numeric-owner', '-p', '--exclude=./dev/*', '-f', tar];
  await onDisk(place, ['fakeroot', '-s', fakeState, ...unpack], {
    ...options,
    readable: [tar],
    // In a namespace of an ordinary user's the kernel has another word for no, which fakeroot does not expect.
    env: { FAKEROOTDONTTRYCHOWN: '1' },
  });
  // Kernel layers are made from this copy, at native speed.
  await writeFile(request.rootOut, '');
  await onDisk(request.rootOut, ['zstd', '-q', '-f', '-1', '-T0', tar, '-o', request.rootOut], {
    ...options,
    readable: [tar],
  });
  await removeScratch(tar);
  // Some suites ship files that nobody may read (gshadow); fakeroot's state keeps their modes, mke2fs has to read them.
  // None is to be setuid on this host, either.
  const odd = ['(', '!', '-perm', '-600', '-o', '-perm', '/6000', ')'];
  await onDisk(
    place,
    ['find', root, '-type', 'f', ...odd, '-exec', 'chmod', 'u+rw,ug-s', '{}', '+'],
    options,
  );

  await writeFile(raw, '', { flag: 'wx' });
  await truncate(raw, sectors * SECTOR);
  await onDisk(raw, ['sfdisk', '--quiet', '--no-reread', '--no-tell-kernel', raw], {
    ...options,
    input: partitionTable(uuid, rootSectors),
  });
  const ext4 = ['-t', 'ext4', '-q', '-F', '-L', 'rootfs', '-U', uuid, '-m', '1', '-d', root, '-J', 'size=64'];
  const config = join(PACKAGE_ROOT, 'cloud-init/bootstrap/mke2fs.conf');
  await onDisk(
    [place, raw],
    [
      ...['fakeroot', '-i', fakeState, 'mke2fs', ...ext4],
      ...['-E', `offset=${ROOT_OFFSET},hash_seed=${uuid},lazy_itable_init=1,lazy_journal_init=1,nodiscard`],
      ...[raw, `${Math.floor((rootSectors * SECTOR) / 1024)}k`],
    ],
    { ...options, readable: [config], env: { MKE2FS_CONFIG: config } },
  );
  await installBootLoader(request);
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
async function installBootLoader({ arch, root, raw, uuid, signal }: DiskRequest): Promise<void> {
  const grub = join(root, 'boot/grub');
  if (arch === 'x86_64') await installBiosLoader(grub, raw);
  const esp = `${raw}@@${ESP.start * SECTOR}`;
  const serial = uuid.slice(0, 8);
  const options = { cancelSignal: signal, env: { MTOOLS_SKIP_CHECK: '1' } };
  const geometry = ['-T', String(ESP.size), '-h', '64', '-s', '32', '-c', '4', '-N', serial];
  await onDisk(raw, ['mformat', '-i', esp, ...geometry, '-v', 'ESP', '::'], options);
  await clearPartitionTable(raw, ESP.start * SECTOR);
  await onDisk(raw, ['mmd', '-i', esp, '::/EFI', '::/EFI/BOOT'], options);
  const { format, file } = EFI_GRUB[arch];
  const core = join(grub, format, 'core.efi');
  await onDisk(raw, ['mcopy', '-i', esp, core, `::/EFI/BOOT/${file}`], { ...options, readable: [core] });
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

/** A UUID that follows from a text. */
export function derivedUuid(text: string): string {
  const hex = createHash('sha256').update(text).digest('hex');
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `4${hex.slice(13, 16)}`,
    `8${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ].join('-');
}
