import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { packModules } from '../../../src/pack/module-package.js';
import { missingForTargets, Targets, type Disk } from '../../rig/target.js';
import { fakeModule } from '../../unit/fixtures/elf.js';
import { packInput } from '../../unit/fixtures/pack-input.js';
import { guestRpmbuild } from '../fixtures/guest-rpmbuild.js';
import { hasTool } from '../fixtures/has-tool.js';

// Machines with real kernels, a real dpkg and the programs that make their initramfs. The modules in our packages are none that a
// kernel would load. acpi_call is one that the initramfs is told to hold, other is not.
let targets: Targets;
let [old, next] = ['', ''];
/** With initramfs-tools, which puts acpi_call into each initramfs. */
let machine: Disk;
const missing = await missingForTargets();

beforeAll(async () => {
  if (missing.length > 0) return;
  targets = await Targets.open(mkdtempSync(join(tmpdir(), 'initramfs-')));
  [old, next] = targets.releases;
  const out = join(targets.shared, 'out');
  mkdirSync(out);
  for (const release of [old, next])
    for (const name of ['acpi_call', 'other']) {
      const modules = [{ name: `${name}.ko`, bytes: fakeModule(release, name) }];
      const fileName = `${name}-${release}.deb`;
      await packModules(packInput(out, release, { module: name, modules, sourcePackage: null, fileName }));
    }
  // What is listed and nothing else: seconds less for each.
  const start = await targets.run(
    [],
    `set -e
    sed -i 's/^MODULES=.*/MODULES=list/' /etc/initramfs-tools/initramfs.conf
    echo acpi_call >>/etc/initramfs-tools/modules
    update-initramfs -u -k "$1" 2>&1`,
    old,
  );
  expect(start.code, start.text).toBe(0);
  machine = start.disk;
}, 1_800_000);
afterAll(() => targets?.[Symbol.asyncDispose]());

/** How many times an initramfs was made for a kernel. */
const made = (text: string, release: string): number =>
  text.split('\n').filter((line) => line === `update-initramfs: Generating /boot/initrd.img-${release}`)
    .length;

/** Whether the initramfs of `$1` holds the module `$2`. */
const HOLDS = `(lsinitramfs "/boot/initrd.img-$1" 2>/dev/null || lsinitrd "/boot/initrd.img-$1") | grep -q "/$2.ko" && echo "it holds $2"`;
const holds = async (disk: Disk, release: string, name: string): Promise<boolean> =>
  (await targets.run(disk, HOLDS, release, name)).text.includes(`it holds ${name}`);

const run = async (disk: Disk, script: string) => {
  const ran = await targets.run(disk, `${script} 2>&1`, old, next);
  expect(ran.code, ran.text).toBe(0);
  return ran;
};

test.skipIf(missing.length > 0)(
  'the initramfs of the package’s kernel is made again, once for a transaction, and no other one',
  async () => {
    expect(await holds(machine, old, 'acpi_call')).toBe(false);
    const both = await run(machine, 'dpkg -i /mnt/out/acpi_call-$1.deb /mnt/out/other-$1.deb');
    expect(made(both.text, old), both.text).toBe(1);
    expect(await holds(both.disk, old, 'acpi_call')).toBe(true);

    // The next kernel and its module in one transaction, as the metapackage brings them.
    const upgraded = await run(
      both.disk,
      'stat -c %Y:%i /boot/initrd.img-$1; dpkg -i /debs/linux-image-$2_*.deb /mnt/out/acpi_call-$2.deb; stat -c %Y:%i /boot/initrd.img-$1',
    );
    expect(made(upgraded.text, old)).toBe(0);
    const times = upgraded.text.match(/^\d+:\d+$/gm)!;
    expect(times[1]).toBe(times[0]);
    expect(await holds(upgraded.disk, next, 'acpi_call')).toBe(true);

    // What the initramfs does not hold goes without it.
    const without = await run(upgraded.disk, 'dpkg -P other-modules-$1');
    expect(made(without.text, old), without.text).toBe(0);
    const purged = await run(without.disk, 'dpkg -P acpi-call-modules-$1');
    expect([made(purged.text, old), made(purged.text, next)], purged.text).toEqual([1, 0]);
    expect(await holds(purged.disk, old, 'acpi_call')).toBe(false);
    expect(await holds(purged.disk, next, 'acpi_call')).toBe(true);
    // The kernel goes, and takes the module along.
    const gone = await run(purged.disk, 'dpkg -P acpi-call-modules-$2 linux-image-$2');
    expect(gone.text).not.toMatch(/error|warning: .*modules/i);
  },
  600_000,
);

test.skipIf(missing.length > 0)(
  'a package that goes while another of its kernel stays leaves the initramfs to that one',
  async () => {
    const both = await run(machine, 'dpkg -i /mnt/out/acpi_call-$1.deb /mnt/out/other-$1.deb');
    const one = await run(both.disk, 'dpkg -r acpi-call-modules-$1');
    expect(one.text).toContain(`Processing triggers for other-modules-${old}`);
    expect(made(one.text, old), one.text).toBe(1);
    expect(await holds(one.disk, old, 'acpi_call')).toBe(false);
  },
  600_000,
);

test.skipIf(missing.length > 0)(
  'where there is no initramfs none is made, and where the system’s builder makes it that is said',
  async () => {
    const none = await run(machine, 'rm /boot/initrd.img-*; dpkg -i /mnt/out/acpi_call-$1.deb; ls /boot');
    expect(none.text).not.toMatch(/initrd|Generating/);
    const left = await run(machine, 'export INITRD=No; dpkg -i /mnt/out/acpi_call-$1.deb');
    expect(left.text).toContain(
      `acpi-call-modules-${old}: the initramfs of ${old} is left to whoever makes this system`,
    );
    expect(made(left.text, old)).toBe(0);
  },
  600_000,
);

/** A machine with dracut, which puts acpi_call into each initramfs and little else. */
const withDracut = () =>
  run(
    machine,
    `set -e; dpkg -P --force-depends initramfs-tools cloud-initramfs-growroot >/dev/null; dpkg -i --force-depends /dracut/*.deb >/dev/null
    echo 'add_drivers+=" acpi_call "' >/etc/dracut.conf.d/test.conf
    printf 'hostonly=no\\ndracutmodules="base kernel-modules"\\ndrivers="loop"\\n' >/etc/dracut.conf.d/small.conf
    dracut --quiet --force /boot/initrd.img-$1 $1`,
  );

test.skipIf(missing.length > 0)(
  'dracut makes it where Debian has dracut',
  async () => {
    const start = await withDracut();
    const installed = await run(start.disk, 'dpkg -i /mnt/out/acpi_call-$1.deb');
    expect(installed.text).toContain(`dracut makes /boot/initrd.img-${old}`);
    expect(await holds(installed.disk, old, 'acpi_call')).toBe(true);
    const purged = await run(installed.disk, 'dpkg -P acpi-call-modules-$1');
    expect(await holds(purged.disk, old, 'acpi_call'), purged.text).toBe(false);
  },
  600_000,
);

test.skipIf(missing.length > 0 || !hasTool('rpmbuild'))(
  'so do the scripts of an .rpm, in the order in which rpm runs them',
  async () => {
    // No .rpm can be for a kernel that is called as Debian's are: it gets another name.
    const release = '6.1.0-56.el9.x86_64';
    const scripts = join(targets.shared, 'rpm');
    mkdirSync(scripts);
    for (const name of ['acpi_call', 'other']) {
      const bytes = fakeModule(release, name);
      const [rpm] = await guestRpmbuild(
        {
          ...{ module: name, version: '1.2', release, arch: 'x86_64', form: 'kmod', extras: [] },
          ...{ modules: [{ name: `${name}.ko`, bytes }], dependsModules: [], sourcePackage: null },
          ...{ maintainer: 'a b <a@b>', mtime: 1_700_000_000 },
        },
        scripts,
      );
      writeFileSync(join(scripts, `${name}.ko`), bytes);
      for (const tag of ['POSTIN', 'POSTUN', 'POSTTRANS']) {
        const text = execFileSync('rpm', ['-qp', '--nosignature', '--qf', `%{${tag}}`, rpm!.path]);
        writeFileSync(join(scripts, `${name}.${tag}`), text);
      }
    }
    // Red Hat's name of it. The scripts look at times in seconds.
    const start = await run(
      (await withDracut()).disk,
      `mv /lib/modules/$1 /lib/modules/${release}; mv /boot/initrd.img-$1 /boot/initramfs-${release}.img; touch -d '1 hour ago' /boot/initramfs-*.img`,
    );
    const install = (...names: string[]): string =>
      `for name in ${names.join(' ')}; do install -D -m 644 /mnt/rpm/$name.ko /lib/modules/${release}/extra/$name/$name.ko && sh /mnt/rpm/$name.POSTIN 1 || exit; done
      for name in ${names.join(' ')}; do sh /mnt/rpm/$name.POSTTRANS 1 || exit; stat -c 'made %y' /boot/initramfs-${release}.img; done`;
    const erase = (name: string): string =>
      `rm -r /lib/modules/${release}/extra/${name} && sh /mnt/rpm/${name}.POSTUN 0; stat -c 'made %y' /boot/initramfs-${release}.img`;
    const times = (text: string): string[] => text.match(/^made .*$/gm) ?? [];
    const inside = async (disk: Disk): Promise<boolean> =>
      (await targets.run(disk, `lsinitrd /boot/initramfs-${release}.img | grep '/acpi_call.ko'`)).code === 0;

    const both = await run(start.disk, install('acpi_call', 'other'));
    const [first, second] = times(both.text);
    expect(first, both.text).toBe(second);
    expect(await inside(both.disk)).toBe(true);
    const without = await run(both.disk, erase('other'));
    expect(times(without.text), without.text).toEqual([first]);
    const gone = await run(without.disk, erase('acpi_call'));
    expect(await inside(gone.disk), gone.text).toBe(false);

    const left = await run(start.disk, `export INITRD=No; ${install('acpi_call')}`);
    expect(left.text).toContain(`the initramfs of ${release} is left to whoever makes this system`);
    expect(await inside(left.disk)).toBe(false);
    const none = await run(start.disk, `rm /boot/initramfs-*; ${install('acpi_call')} 2>/dev/null; ls /boot`);
    expect(none.text).not.toMatch(/initramfs-/);
  },
  600_000,
);
