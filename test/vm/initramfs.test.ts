import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bootNew, specOf, type Booted } from '../../src/environment/boot.js';
import { bootOn } from '../../src/environment/snapshot.js';
import { distroDebs, openLayer } from './layer.js';
import { FIXTURES, kernels, ROAD, temporary, tool, type Document } from './tool.js';

// A machine that has the module in its initramfs, on its way through two real kernels of the distro. Too long for each commit; what
// needs no machine that boots is in test/host/pack/initramfs.test.ts.
const whole = process.env.DKMS2BIN_TEST_WHOLE === '1';
const later = whole ? '' : ' (skipped: npm run test:upgrade runs it)';
const HOUR = 3_600_000;
let work = '';

beforeAll(async () => {
  work = await temporary('initramfs');
});
afterAll(async () => {
  await rm(work, { recursive: true, force: true });
});

/** What a machine has in /boot for a kernel: whether its initramfs holds the module, and which file that is. */
async function initrd({ guest }: Booted, release: string): Promise<{ holds: boolean; file: string }> {
  const path = `/boot/initrd.img-${release}`;
  const said = await guest.text(
    `stat -c %i:%Y ${path}; lsinitramfs ${path} >/tmp/list; grep -c '/dk2b_tiny\\.ko' /tmp/list || true`,
    HOUR,
  );
  const [file = '', count] = said.split('\n');
  return { holds: count === '1', file };
}

/** What a command of the package manager's says; it ends well. */
async function packages({ guest }: Booted, command: string): Promise<string> {
  const said = await guest.text(`${command} 2>&1; echo "code $?"`, HOUR);
  expect(said).toMatch(/^code 0$/m);
  return said;
}

test.skipIf(!whole)(
  `a module that the initramfs is to hold is in it when installed, after the upgrade to the next kernel, and gone when purged${later}`,
  async () => {
    const { newest: to, previous: from } = await kernels();
    const built = await tool(
      [
        ...['--dkms', join(FIXTURES, 'tiny'), '--kernel', from, '--kernel', to, ...ROAD, '--no-verify'],
        ...['--out-dir', join(work, 'out'), '--json'],
      ],
      { env: { DKMS2BIN_STATE: join(work, 'state') }, cwd: work },
    );
    expect(built.code, built.stderr).toBe(0);
    const { cells } = JSON.parse(built.stdout) as Document;
    const ours = (release: string): string => cells.find((each) => each.kernel === release)!.package!;
    const [image = ''] = await distroDebs(work, `linux-image-${to}`, [`linux-image-${to}`]);

    await using opened = await openLayer(from, 'runtime', work);
    const { layer, machine } = opened;
    const [first, second] = [join(work, 'first'), join(work, 'second')];
    await mkdir(second);
    let below: readonly string[];
    {
      await using booted = await bootOn({ layer, snapshot: null }, 'none', first, machine);
      const { guest, vm } = booted;
      below = vm.backings;
      await guest.put({ file: ours(from) }, '/tmp/from.deb');
      await guest.put({ file: ours(to) }, '/tmp/to.deb');
      await guest.put({ file: image }, '/tmp/image.deb');
      // What this machine needs and no more: seconds less for each initramfs.
      await guest.text(
        `sed -i 's/^MODULES=.*/MODULES=dep/' /etc/initramfs-tools/initramfs.conf; echo dk2b_tiny >>/etc/initramfs-tools/modules
        update-initramfs -u -k ${from}`,
        HOUR,
      );
      expect(await initrd(booted, from)).toMatchObject({ holds: false });
      await packages(booted, 'apt-get -y install /tmp/from.deb');
      const running = await initrd(booted, from);
      expect(running.holds).toBe(true);

      // The next kernel and its module in one transaction: the running kernel's initramfs stays as it is. There is no network for
      // what apt would take besides.
      const said = await packages(booted, 'dpkg -i /tmp/image.deb /tmp/to.deb');
      expect(said).toContain(`Generating /boot/initrd.img-${to}`);
      expect(await initrd(booted, from)).toEqual(running);
      expect(await initrd(booted, to)).toMatchObject({ holds: true });
      await guest.fetch(`/boot/vmlinuz-${to}`, join(second, 'vmlinuz'), 2 ** 29);
      await guest.fetch(`/boot/initrd.img-${to}`, join(second, 'initrd'), 2 ** 29);
      await guest.text('sync; systemctl --no-block poweroff');
      await vm.waitForPowerOff(600_000);
    }

    const boot = { ...layer.boot, vmlinuz: join(second, 'vmlinuz'), initrd: join(second, 'initrd') };
    const spec = specOf(machine, { boot, control: 'channel', network: 'none', egress: false });
    const disk = { backing: join(first, 'disk.qcow2'), below, spec };
    await using booted = await bootNew(disk, second, machine);
    const { guest } = booted;
    expect((await guest.text('uname -r')).trim()).toBe(to);
    // It came from the initramfs, before there was a root file system.
    const log = await guest.text('dmesg');
    const at = (words: string): number => log.split('\n').findIndex((line) => line.includes(words));
    expect(at('dk2b_tiny loaded'), log).toBeGreaterThan(0);
    expect(at('dk2b_tiny loaded'), log).toBeLessThan(at('mounted filesystem'));

    const [old, running] = [await initrd(booted, from), await initrd(booted, to)];
    const purge = (release: string): Promise<string> =>
      packages(booted, `apt-get -y purge dk2b-tiny-modules-${release}`);
    await purge(from);
    expect(await initrd(booted, from)).toMatchObject({ holds: false });
    expect(await initrd(booted, to)).toEqual(running);
    const without = await initrd(booted, from);
    expect(without.file).not.toBe(old.file);
    await purge(to);
    expect(await initrd(booted, to)).toMatchObject({ holds: false });
    expect(await initrd(booted, from)).toEqual(without);
  },
);
