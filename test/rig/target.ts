import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hostMirrors } from '../../src/distro/mirrors.js';
import { cacheDir } from '../../src/lib/paths.js';
import { lacking } from './images.js';

// Root folders of Debian machines with real dpkg, apt, dkms and kernels, in namespaces and not in a VM: seconds for each step.
const RIG = fileURLToPath(new URL('target', import.meta.url));

const asRoot = (...more: string[]): string[] =>
  process.getuid?.() === 0 ? more : ['--user', '--map-root-user', '--map-auto', ...more];

/** What this host lacks for such roots; empty when nothing. */
export async function missingForTargets(): Promise<string[]> {
  const missing = await lacking(['mmdebstrap', 'unshare', 'dpkg-scanpackages']);
  const { main, security } = await hostMirrors();
  if (main === undefined || security === undefined)
    missing.push("mirrors of Debian in this host's apt configuration");
  const { exitCode } = await execa('unshare', [...asRoot('--mount', '--pid', '--fork'), 'true'], {
    reject: false,
  });
  if (exitCode !== 0) missing.push('namespaces');
  return missing;
}

/** The folder of a machine's root in the cache, made when it is not there. */
async function baseRoot(): Promise<string> {
  const script = join(RIG, 'make-root.sh');
  const hash = createHash('sha256')
    .update(await readFile(script))
    .digest('hex')
    .slice(0, 16);
  const rigs = join(cacheDir(), 'test-rigs');
  // Owners of the files are those of the user who made it.
  const made = join(rigs, `target-${process.getuid?.() ?? 0}-${hash}`);
  if (existsSync(join(made, 'root/releases'))) return join(made, 'root');
  const { main = '', security = '' } = await hostMirrors();
  await mkdir(rigs, { recursive: true });
  const making = await mkdtemp(join(rigs, '.making-'));
  try {
    await execa(script, [main, security, making], { timeout: 1_800_000 });
    await rename(making, made);
  } finally {
    await remove(making);
  }
  return join(made, 'root');
}

const remove = (folder: string): Promise<unknown> =>
  process.getuid?.() === 0
    ? rm(folder, { recursive: true, force: true })
    : execa('unshare', [...asRoot(), 'rm', '-rf', folder]);

interface Ran {
  code: number;
  /** stdout and stderr. */
  text: string;
}

/** What a machine's disk was at some time. Machines that go on from it do not disturb each other. */
export type Disk = readonly string[];

export class Targets implements AsyncDisposable {
  private made = 0;

  private constructor(
    private readonly base: string,
    /** What is put here is in `/mnt` of each machine. */
    readonly shared: string,
    /** Release of the kernel that is installed, and of the next one, whose packages lie in `/debs`. */
    readonly releases: readonly [string, string],
  ) {}

  /** `folder` is new and empty. */
  static async open(folder: string): Promise<Targets> {
    const base = await baseRoot();
    const [old = '', next = ''] = (await readFile(join(base, 'releases'), 'utf8')).split('\n');
    return new Targets(base, folder, [old, next]);
  }

  /** Runs a shell script as root on a machine with that disk; resolves with the disk as it is afterwards. */
  async run(disk: Disk, script: string, ...args: string[]): Promise<Ran & { disk: Disk }> {
    const upper = join(this.shared, `disk-${this.made++}`);
    const lower = [...disk, this.base].join(':');
    const { exitCode, all } = await execa(
      'unshare',
      [
        ...asRoot('--mount', '--pid', '--ipc', '--net', '--fork', '--kill-child'),
        ...[join(RIG, 'enter.sh'), this.shared, upper, lower, 'sh', '-c', script, 'sh', ...args],
      ],
      { reject: false, all: true, timeout: 300_000 },
    );
    return { code: exitCode ?? -1, text: all, disk: [upper, ...disk] };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await remove(this.shared);
  }
}
