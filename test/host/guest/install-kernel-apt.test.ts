import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { putFile } from '../fixtures/put.js';
import { programText } from '../../../src/guest/program.js';

// The guest's script, run here on a root folder of its own, with programs that write down how they were called. What the real apt makes
// of it, layers show.
const RELEASE = '6.8.12-4-pve';
const PROXMOX = {
  RELEASE,
  IMAGE_PACKAGES: `proxmox-kernel-${RELEASE}-signed proxmox-kernel-${RELEASE} pve-kernel-${RELEASE}`,
  HEADER_PACKAGES: `proxmox-headers-${RELEASE} pve-headers-${RELEASE}`,
  KERNEL_SOURCES: 'deb http://kernels.example/debian/pve bookworm pve-no-subscription',
  KERNEL_KEY: Buffer.from('the key').toString('base64'),
  ROOT_UUID: '00000000-0000-0000-0000-000000000000',
};

let root: string;
beforeEach(() => void (root = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(root, { recursive: true }));

const put = (path: string, text: string, mode?: number): void => putFile(root, path, text, mode);

interface Done {
  code: number | null;
  out: string;
  /** What apt was told to install, call by call. */
  calls: string[];
}

/** Runs the script where apt knows the packages of `known`. */
async function install(
  variables: Record<string, string>,
  known: readonly string[],
  { config = '', files = {} }: { config?: string; files?: Record<string, string> } = {},
): Promise<Done> {
  put('known', `${known.join('\n')}\n`);
  put('installed', '');
  const script = (name: string, text: string): void => put(`bin/${name}`, `#!/bin/bash\n${text}\n`, 0o755);
  script(
    'apt-get',
    `all="$*"
case " $all " in *" install "*)
  echo "\${all##* install }" >>'${root}/calls'
  cp -r '${root}/etc/apt' '${root}/apt-then' 2>/dev/null
  for each in \${all##* install }; do
    case $each in *.deb) each=$(dpkg-deb -f "$each" Package) ;; esac
    grep -qxF "$each" '${root}/known' || { echo "E: Unable to locate package $each"; exit 100; }
    echo "$each" >>'${root}/installed'
  done ;; esac`,
  );
  script('apt-cache', `[ "$1" = show ] && grep -qxF "$2" '${root}/known' && echo "Package: $2"`);
  script(
    'dpkg-query',
    `for last; do :; done; grep -qxF "$last" '${root}/installed' && printf 'ii  1.0\\n' || exit 1`,
  );
  script('dpkg-deb', `n=\${2##*/}; echo "\${n%.deb}"`);
  for (const name of ['dpkg', 'debconf-set-selections', 'dkms', 'mkinitramfs', 'systemctl', 'depmod'])
    script(name, ':');
  script('gcc', 'echo 12.2.0');
  script('gcc-13', ':');
  script('clang', ':');
  script('ld.lld', ':');
  for (const path of [`boot/vmlinuz-${RELEASE}`, `boot/initrd.img-${RELEASE}`]) put(path, 'x');
  put(`lib/modules/${RELEASE}/build/Makefile`, 'x');
  put(`lib/modules/${RELEASE}/modules.dep`, 'x');
  for (const path of ['usr/local/bin', 'etc/apt/sources.list.d', 'etc/apt/preferences.d'])
    put(`${path}/.keep`, '');
  if (config !== '') put(`lib/modules/${RELEASE}/build/.config`, config);
  for (const [path, text] of Object.entries(files)) put(path, text);
  const text = (await programText('install-kernel-apt.sh', { ...variables, TOOLCHAIN: 'dkms gcc' }))
    .replace(/ PATH=\S+$/m, ` PATH='${root}/bin':/usr/bin:/bin`)
    .replaceAll(/(?<![\w.$}/-])\/(?:etc|boot|lib\/modules|usr\/local\/bin)\b/g, (path) => root + path);
  const { status, stdout, stderr } = spawnSync('bash', ['-c', text], { encoding: 'utf8' });
  const calls = existsSync(join(root, 'calls'))
    ? readFileSync(join(root, 'calls'), 'utf8').trim().split('\n')
    : [];
  return { code: status, out: stdout + stderr, calls };
}

const TOOLS = ['dkms', 'gcc'];

test('a repository of the kernel: its sources, its key and its pin are there while apt works, and gone then', async () => {
  const known = [
    `proxmox-kernel-${RELEASE}-signed`,
    `proxmox-kernel-${RELEASE}`,
    `proxmox-headers-${RELEASE}`,
  ];
  const { code, out, calls } = await install(PROXMOX, [...known, ...TOOLS]);
  expect(code, out).toBe(0);
  expect(calls).toEqual([`proxmox-kernel-${RELEASE}-signed proxmox-headers-${RELEASE} dkms gcc`]);
  expect(out).toContain(`image-package proxmox-kernel-${RELEASE}-signed`);
  const then = (path: string): string => readFileSync(join(root, 'apt-then', path), 'utf8');
  expect(then('sources.list.d/dkms2bin-kernel.list')).toBe(
    `deb [signed-by=${root}/etc/apt/dkms2bin-kernel.gpg] http://kernels.example/debian/pve bookworm pve-no-subscription\n`,
  );
  expect(then('dkms2bin-kernel.gpg')).toBe('the key');
  expect(then('preferences.d/dkms2bin-kernel')).toContain('Pin: origin "kernels.example"\nPin-Priority: 100');
  for (const path of [
    'sources.list.d/dkms2bin-kernel.list',
    'dkms2bin-kernel.gpg',
    'preferences.d/dkms2bin-kernel',
  ])
    expect(existsSync(join(root, 'etc/apt', path)), path).toBe(false);
});

test('the first name that exists is taken, and what is not there is named', async () => {
  const older = await install(PROXMOX, [`pve-kernel-${RELEASE}`, `pve-headers-${RELEASE}`, ...TOOLS]);
  expect(older.code, older.out).toBe(0);
  expect(older.calls).toEqual([`pve-kernel-${RELEASE} pve-headers-${RELEASE} dkms gcc`]);
  const headless = await install(PROXMOX, [`proxmox-kernel-${RELEASE}`, ...TOOLS]);
  expect(headless.out).toContain(`proxmox-kernel-${RELEASE} exists but proxmox-headers-${RELEASE} does not`);
  const none = await install(PROXMOX, TOOLS);
  expect(none.out).toContain(`no proxmox-kernel-${RELEASE}-signed in the guest's package sources`);
});

test('files of a kernel: image and headers by their packages, and which is missing', async () => {
  const folder = join(root, 'given');
  const names = { IMAGE_PACKAGES: `linux-image-${RELEASE}`, HEADER_PACKAGES: `linux-headers-${RELEASE}` };
  const given = { RELEASE, ROOT_UUID: PROXMOX.ROOT_UUID, KERNEL_PACKAGE_DIR: folder, ...names };
  const all = [`linux-image-${RELEASE}`, `linux-headers-${RELEASE}`, `linux-image-${RELEASE}-dbg`];
  const files = Object.fromEntries(all.map((name) => [`given/${name}.deb`, 'x']));
  const whole = await install(given, [...all, ...TOOLS], { files });
  expect(whole.code, whole.out).toBe(0);
  expect(whole.calls).toEqual([
    `${folder}/linux-headers-${RELEASE}.deb ${folder}/linux-image-${RELEASE}.deb dkms gcc`,
  ]);
  rmSync(join(folder, `linux-headers-${RELEASE}.deb`));
  const lacking = await install(given, TOOLS);
  expect(lacking.out).toContain(`linux-headers-${RELEASE}, what modules are built against, is missing`);
});

const KNOWN = [`proxmox-kernel-${RELEASE}`, `proxmox-headers-${RELEASE}`, ...TOOLS];
const gcc = (version: number): string =>
  `CONFIG_CC_VERSION_TEXT="gcc (House) ${version}"\nCONFIG_CC_IS_GCC=y\nCONFIG_GCC_VERSION=${version}0200\n`;
const CLANG =
  'CONFIG_CC_VERSION_TEXT="clang version 19.1.0"\nCONFIG_CC_IS_CLANG=y\nCONFIG_CLANG_VERSION=190100\n';

test.each([
  { what: "the distro's gcc", config: gcc(12), known: KNOWN, more: [], says: '' },
  {
    ...{ what: 'another gcc that the distro has', config: gcc(13), known: [...KNOWN, 'gcc-13'] },
    ...{ more: ['gcc-13'], says: 'gcc-13 was installed beside gcc 12' },
  },
  {
    ...{ what: 'another gcc that it lacks', config: gcc(15), known: KNOWN },
    ...{ more: [], says: 'it has no gcc-15' },
  },
  {
    ...{
      what: 'clang of the very version',
      config: CLANG,
      known: [...KNOWN, 'clang-19', 'lld-19', 'llvm-19'],
    },
    ...{ more: ['clang-19 lld-19 llvm-19'], says: 'clang-19' },
  },
  {
    ...{ what: 'clang of another version', config: CLANG, known: [...KNOWN, 'clang', 'lld', 'llvm'] },
    ...{ more: ['clang lld llvm'], says: 'clang lld llvm were installed' },
  },
])('a kernel built with $what', async ({ config, known, more, says }) => {
  const { code, out, calls } = await install(PROXMOX, known, { config });
  expect(code, out).toBe(0);
  expect(calls.slice(1)).toEqual(more);
  expect(out).toMatch(says === '' ? /^@@dkms2bin kernel-compiler $/m : /^@@dkms2bin kernel-compiler \S/m);
  if (says === '') expect(out).not.toContain('@@dkms2bin note');
  else expect(out).toMatch(new RegExp(`@@dkms2bin note .*${says}`));
});

test('a machine that builds nothing gets the kernel alone', async () => {
  const { code, out, calls } = await install({ ...PROXMOX, VARIANT: 'runtime' }, KNOWN, { config: CLANG });
  expect(code, out).toBe(0);
  // Then apt is asked what headers and dkms would have taken.
  expect(calls).toEqual([`proxmox-kernel-${RELEASE}`, `dkms proxmox-headers-${RELEASE}`]);
  expect(out).toMatch(/^@@dkms2bin cmdline /m);
});

test('a kernel built with clang, where there is none, is an error that says so', async () => {
  const { code, out } = await install(PROXMOX, KNOWN, { config: CLANG });
  expect(code).not.toBe(0);
  expect(out).toContain('built with clang version 19.1.0, and the package sources have no clang');
});
