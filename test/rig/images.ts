import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheDir } from '../../src/lib/paths.js';

const RIG = fileURLToPath(new URL('.', import.meta.url));
const PARTS = [
  ...[
    'make-image.sh',
    'before-packages.sh',
    'customize.sh',
    'fill-disk.sh',
    'label.py',
    'list-labels.sh',
  ].map((name) => `cloud/${name}`),
  ...['finish-root.sh', 'write-root.sh', 'grub-bios.py', 'bookworm.packages'].map(
    (name) => `official/${name}`,
  ),
];

/** What make-image.sh needs of this host. */
export const IMAGE_TOOLS = ['mmdebstrap', 'mke2fs', 'sfdisk', 'mkfs.vfat', 'mcopy', 'python3', 'openssl'];

/** Those of the programs that this host lacks. */
export async function lacking(programs: readonly string[]): Promise<string[]> {
  const looked = await Promise.all(
    programs.map((each) =>
      execa('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin; command -v ${each}`], { reject: false }),
    ),
  );
  return programs.filter((_, at) => looked[at]?.exitCode !== 0);
}

type Form = 'ubuntu' | 'stream' | 'fedora';
/** The apt sources that an image is made of, and where its repositories are. */
interface Origin {
  sources: string;
  url: string;
}

/** Makes an image in `folder`, which is new, and resolves to it. */
export async function makeImage(form: Form, { sources, url }: Origin, folder: string): Promise<string> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'sources'), sources);
  const args = [form, join(folder, 'sources'), url, folder];
  await execa(join(RIG, 'cloud/make-image.sh'), args, { timeout: 150 * 60_000 });
  return folder;
}

/** The same out of the cache, which keeps one image of each form. */
export async function cachedImage(form: Form, origin: Origin): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(origin));
  for (const part of PARTS) hash.update(await readFile(join(RIG, part)));
  const rigs = join(cacheDir(), 'test-rigs');
  const name = `${form}-${hash.digest('hex').slice(0, 16)}`;
  if (await stat(join(rigs, name)).catch(() => null)) return join(rigs, name);
  await mkdir(rigs, { recursive: true });
  const making = await mkdtemp(join(rigs, '.making-'));
  try {
    await makeImage(form, origin, making);
    for (const old of await readdir(rigs)) {
      if (old.startsWith(`${form}-`)) await rm(join(rigs, old), { recursive: true, force: true });
    }
    await rename(making, join(rigs, name));
  } finally {
    await rm(making, { recursive: true, force: true });
  }
  return join(rigs, name);
}

/**
 * The fixture `tiny` as a folder whose build also writes into make.log what the guest is: size of the root in KiB, file system,
 * SELinux's mode, kernel arguments, whether the CPU is of x86-64-v3, distro's user.
 */
export async function lookingTiny(fixtures: string, folder: string): Promise<string> {
  const to = join(folder, 'looking-tiny');
  await cp(join(fixtures, 'tiny'), to, { recursive: true });
  const conf = await readFile(join(to, 'dkms.conf'), 'utf8');
  await writeFile(join(to, 'dkms.conf'), conf.replace('MAKE[0]="make', 'MAKE[0]="sh ./look.sh; make'));
  await writeFile(
    join(to, 'look.sh'),
    [
      'echo "root: $(df -k --output=size / | tail -n 1) KiB of $(findmnt -no FSTYPE,OPTIONS /)"',
      'echo "SELinux: $(getenforce 2>/dev/null || echo none), $(id -Z 2>/dev/null)"',
      'echo "arguments: $(cat /proc/cmdline)"',
      'echo "AVX2: $(grep -c -m 1 -w avx2 /proc/cpuinfo)"',
      '',
    ].join('\n'),
  );
  return to;
}
