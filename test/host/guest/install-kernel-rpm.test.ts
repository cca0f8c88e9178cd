import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { corpus } from '../../hostile/corpus.js';
import { putFile } from '../fixtures/put.js';
import { programText } from '../../../src/guest/program.js';

// The guest's script, run here on a root folder of its own, with programs that write down how they were called. What the real dnf
// makes of it, the rig shows (test/vm/rpm-rig.test.ts).
const RELEASE = '5.14.0-503.el9.x86_64';

let root: string;
beforeEach(() => void (root = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(root, { recursive: true }));

const put = (path: string, text: string, mode?: number): void => putFile(root, path, text, mode);

async function run(
  variables: Record<string, string>,
  lacking: readonly string[] = [],
): Promise<{ status: number | null; said: string }> {
  put(
    'bin/dnf',
    `#!/bin/sh
for each; do case $each in --setopt=sslcacert=*) cat "\${each##*=}" >>'${root}/trusted'; echo >>'${root}/trusted' ;; esac; done
case " $* " in
  *" repoquery "*)
    for last; do :; done
    case ' ${lacking.join(' ')} ' in *" $last "*) ;; *) echo "$last" ;; esac ;;
  *" install "*) printf '%s\n' "$*" >>'${root}/calls' ;;
esac`,
    0o755,
  );
  put('bin/rpm', '#!/bin/sh\nexit 1\n', 0o755);
  for (const path of [`boot/vmlinuz-${RELEASE}`, `boot/initramfs-${RELEASE}.img`]) put(path, 'x');
  for (const path of ['build/Makefile', 'modules.dep']) put(`lib/modules/${RELEASE}/${path}`, 'x');
  const script = (await programText('install-kernel-rpm.sh', variables))
    .replace(/ PATH=\S+$/m, ` PATH='${root}/bin':/usr/bin:/bin`)
    .replaceAll(/(?<![\w.$}/-])\/(?:etc|boot|opt|lib\/modules|usr\/local)\b/g, (path) => root + path);
  const { status, stdout, stderr } = spawnSync('bash', ['-c', script], { encoding: 'utf8' });
  return { status, said: stdout + stderr };
}

/**
 * Packages that dnf was told to install, call by call, with the options that switch repositories on. It knows all that it is asked
 * for but `lacking`.
 */
async function install(
  variables: Record<string, string>,
  lacking: readonly string[] = [],
): Promise<string[]> {
  const { status, said } = await run(variables, lacking);
  expect(status, said).toBe(0);
  return readFileSync(join(root, 'calls'), 'utf8')
    .trim()
    .split('\n')
    .map((call) => call.replace(/^.* install /, ''));
}

const ROCKY = {
  RELEASE,
  IMAGE_PACKAGES: `kernel-core-${RELEASE}`,
  MODULE_PACKAGES: `kernel-modules-${RELEASE}`,
  HEADER_PACKAGES: `kernel-devel-${RELEASE}`,
  TOOLCHAIN_REPO: 'epel-release',
  TOOLCHAIN_NEEDS: 'crb',
};
const KERNEL = ['core', 'modules', 'devel'].map((name) => `kernel-${name}-${RELEASE}`).join(' ');
const TOOLS = 'dkms gcc make rpm-build elfutils-libelf-devel';

const refused = corpus<{ program: string; name: string; input: string }>('variables').filter(
  ({ program }) => program === 'install-kernel-rpm.sh',
);
test.each(refused)('refuses $name $input', async ({ name, input }) => {
  const { status, said } = await run({ ...ROCKY, [name]: input });
  expect(status, said).toBe(2);
  expect(said).toMatch(/^@@dkms2bin error /m);
  for (const path of ['calls', 'etc/yum.repos.d/dkms2bin-kernel.repo'])
    expect(existsSync(join(root, path)), path).toBe(false);
});

test("EPEL comes before dkms, and the image's repository that EPEL needs is switched on for it alone", async () => {
  put('etc/yum.repos.d/rocky.repo', '[baseos]\nenabled=1\n[crb]\nenabled=0\n');
  expect(await install(ROCKY)).toEqual([KERNEL, 'epel-release', `--enablerepo=crb ${TOOLS}`]);
});

test('with repositories of a mirror, the needed one is on already: dnf would refuse its other name', async () => {
  put('etc/yum.repos.d/rocky.repo', '[crb]\nenabled=0\n');
  expect(await install({ ...ROCKY, REPOS: 'crb=http://mirror.test/crb' })).toEqual([
    KERNEL,
    'epel-release',
    TOOLS,
  ]);
  expect(readFileSync(join(root, 'etc/yum.repos.d/rocky.repo'), 'utf8')).toContain('[crb]');
});

test('a machine that builds nothing gets neither EPEL nor headers', async () => {
  put('etc/yum.repos.d/rocky.repo', '[crb]\nenabled=0\n');
  expect(await install({ ...ROCKY, VARIANT: 'runtime', TOOLCHAIN_REPO: '' })).toEqual([
    `kernel-core-${RELEASE} kernel-modules-${RELEASE}`,
  ]);
});

test('each run of dnf trusts the given authorities besides those that the image knows', async () => {
  put('etc/yum.repos.d/rocky.repo', '[crb]\nenabled=0\n');
  put('etc/pki/tls/certs/ca-bundle.crt', 'KNOWN');
  await install({ ...ROCKY, AUTHORITIES: 'OURS' });
  const runs = readFileSync(join(root, 'trusted'), 'utf8').split('\n\n').filter(Boolean);
  // makecache, three lookups, three installations
  expect(runs).toEqual(Array(7).fill('KNOWN\nOURS'));
});

describe('the compiler that the kernel was built with', () => {
  const config = (text: string): void => put(`lib/modules/${RELEASE}/build/.config`, text);
  const gcc = (major: number): string =>
    `CONFIG_CC_VERSION_TEXT="gcc (House) ${major}"\nCONFIG_CC_IS_GCC=y\nCONFIG_GCC_VERSION=${major}0200\n`;
  const CLANG =
    'CONFIG_CC_VERSION_TEXT="clang version 19.1.0"\nCONFIG_CC_IS_CLANG=y\nCONFIG_CLANG_VERSION=190100\n';
  const before = [KERNEL, 'epel-release', TOOLS];
  beforeEach(() => {
    put('bin/gcc', '#!/bin/sh\necho 11\n', 0o755);
    put('usr/local/bin/.keep', '');
  });

  test("is the distro's gcc", async () => {
    config(gcc(11));
    expect(await install(ROCKY)).toEqual(before);
  });

  test('is a gcc of a toolset: its programs come before the own ones', async () => {
    config(gcc(13));
    put('opt/rh/gcc-toolset-13/root/usr/bin/gcc', '', 0o755);
    expect(await install(ROCKY, ['gcc13'])).toEqual([...before, 'gcc-toolset-13-gcc']);
    expect(readlinkSync(join(root, 'usr/local/bin/gcc'))).toBe(
      join(root, 'opt/rh/gcc-toolset-13/root/usr/bin/gcc'),
    );
  });

  test('is a gcc that nobody has: it is told, and the own one builds', async () => {
    config(gcc(13));
    const { status, said } = await run(ROCKY, ['gcc13', 'gcc-toolset-13-gcc']);
    expect(status, said).toBe(0);
    expect(said).toMatch(/^@@dkms2bin note .*gcc \(House\) 13, and .* gcc 11: it has no gcc 13$/m);
  });

  test('is clang', async () => {
    config(CLANG);
    expect(await install(ROCKY)).toEqual([...before, 'clang lld llvm']);
  });

  test('is clang where there is none: an error that says so', async () => {
    config(CLANG);
    const { status, said } = await run(ROCKY, ['lld']);
    expect(status).toBe(3);
    expect(said).toContain('built with clang version 19.1.0, and the package sources have no lld');
  });
});
