import { existsSync, readdirSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { baseImage } from '../../src/environment/base-image.js';
import { findRow, loadCatalogue } from '../../src/distro/catalogue.js';
import { run } from '../../src/lib/exec.js';
import { isRoot } from '../../src/lib/sandbox.js';

/** A distro's root folder with its dkms, compiler and the headers of one kernel: the one that a build VM boots. */
export interface Root {
  folder: string;
  /** The kernel whose headers it has. */
  release: string;
  /** Version of its dkms: `3.0.10`. */
  dkms: string;
  /** The kernel's configuration. */
  config: string;
}

const ENTER = join(import.meta.dirname, 'enter.sh');

/** A command as root of a root folder; see enter.sh. What it writes goes to `upper`; without one, to the root folder itself. */
export function entered(
  { folder, release }: Pick<Root, 'folder' | 'release'>,
  upper: string | null,
  network = upper === null,
): string[] {
  const user = isRoot() ? [] : ['--user', '--map-root-user', '--map-auto'];
  const alone = network ? [] : ['--net'];
  const spaces = ['--mount', '--pid', '--ipc', '--uts', '--fork', '--kill-child'];
  return ['unshare', ...user, ...alone, ...spaces, 'bash', ENTER, folder, upper ?? '-', release];
}

/**
 * The root folder of a row of the catalogue. Made from its bootstrapped image, which takes minutes; else from the cache. One that is
 * there already is taken from DKMS2BIN_TEST_ROOT: `FOLDER RELEASE DKMS-VERSION`.
 * `flavour` is the kernel's: the cloud's has the smallest headers.
 */
export async function rootOf(
  distro: string,
  flavour: 'cloud-amd64' | 'amd64' = 'cloud-amd64',
): Promise<Root> {
  const { DKMS2BIN_TEST_ROOT } = process.env;
  if (DKMS2BIN_TEST_ROOT) {
    const [folder = '', release = '', dkms = ''] = DKMS2BIN_TEST_ROOT.split(' ');
    return { folder, release, dkms, config: join(folder, 'boot', `config-${release}`) };
  }
  const { emit, signal } = { emit: () => undefined, signal: new AbortController().signal };
  const row = findRow(await loadCatalogue(), distro);
  const image = await baseImage(row, {
    ...{ image: 'bootstrap', variant: 'build', arch: 'x86_64', offline: false, cwd: process.cwd() },
    ...{ emit, signal },
  });
  try {
    if (!image.root) throw new Error(`the image of ${distro} has no root folder`);
    const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache');
    // Of an overlay a colon would end its path.
    const dir = join(
      cache,
      'dkms2bin',
      'test-roots',
      `${distro}-${flavour}-${image.hash}`.replaceAll(':', '-'),
    );
    if (!existsSync(join(dir, 'ready'))) await makeRoot(image.root.tar, dir, flavour);
    const folder = join(dir, 'root');
    const [release = '', dkms = ''] = (await readFile(join(dir, 'ready'), 'utf8')).split('\n');
    return { folder, release, dkms, config: join(folder, 'boot', `config-${release}`) };
  } finally {
    await image.entry?.use.release();
  }
}

async function makeRoot(tar: string, dir: string, flavour: string): Promise<void> {
  const folder = join(dir, 'root');
  await mkdir(folder, { recursive: true });
  const inside = entered({ folder, release: '' }, null);
  const spaces = inside.slice(0, inside.indexOf('bash'));
  await run(spaces[0]!, [
    ...spaces.slice(1),
    'tar',
    '-C',
    folder,
    '-x',
    '-I',
    'zstd',
    '--numeric-owner',
    '-p',
    '--exclude=./dev/*',
    '-f',
    tar,
  ]);
  // Its newest kernel, without the metapackages: an older one's headers may have left the mirror, and of an old distro's the metapackages.
  await run(
    inside[0]!,
    [
      ...inside.slice(1),
      ...['bash', '-ec'],
      `printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
     apt() { apt-get -qq -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false "$@" </dev/null; }
     # A boot loader's hook finds no disk.
     rm -f /etc/kernel/post*.d/zz-update-grub
     apt update; release=$(apt-cache depends linux-headers-${flavour} | sed -n 's/^ *Depends: linux-headers-\\([0-9].*\\)/\\1/p' | head -n 1)
     apt -y --no-install-recommends install linux-image-$release linux-headers-$release; apt clean
     rm -f /usr/sbin/policy-rc.d`,
    ],
    { network: true, env: { DEBIAN_FRONTEND: 'noninteractive' } },
  );
  const kernels = await readdir(join(folder, 'lib', 'modules'));
  // `build` may be a link that leads into the root, and to nothing here.
  const release = kernels
    .filter((each) => readdirSync(join(folder, 'lib', 'modules', each)).includes('build'))
    .sort()
    .at(-1);
  if (release === undefined) throw new Error('no kernel headers were installed');
  const { stdout } = await run('dpkg-query', [
    '--admindir',
    join(folder, 'var/lib/dpkg'),
    '-W',
    '-f',
    '${Version}',
    'dkms',
  ]);
  await writeFile(join(dir, 'ready.part'), `${release}\n${stdout.replace(/-[^-]*$/, '')}\n`);
  await rename(join(dir, 'ready.part'), join(dir, 'ready'));
}
