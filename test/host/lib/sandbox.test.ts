import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HOST_ARCH } from '../../../src/model/cell.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import { run } from '../../../src/lib/exec.js';
import { removeScratch } from '../../../src/lib/namespace.js';
import { PACKAGE_ROOT } from '../../../src/lib/paths.js';
import { nativeSandbox, type NativeSandbox } from '../../../src/lib/sandbox.js';

let dir = '';
let box = '';
let sandbox: NativeSandbox;

beforeEach(async (context) => {
  dir = await mkdtemp(join(tmpdir(), 'dkms2bin-sandbox-'));
  box = join(dir, 'box');
  await mkdir(box, { mode: 0o755 });
  await writeFile(join(dir, 'key.pem'), 'SECRET KEY');
  try {
    sandbox = await nativeSandbox({
      ...{ arch: HOST_ARCH, scratch: dir, network: true },
      ...{ readable: [join(PACKAGE_ROOT, 'cloud-init', 'sandbox')], writable: [box] },
    });
  } catch (error) {
    if (error instanceof Dkms2binError) return context.skip(error.message);
    throw error;
  }
  await sandbox.handOver(box);
});
afterEach(() => removeScratch(dir));

/** What a package's preinst is: a shell that is root where it runs. */
async function preinst(script: string): Promise<string> {
  const [file, ...args] = sandbox.command;
  const { stdout } = await run(file, [...args, 'sh', '-c', script]);
  return stdout;
}

test("a package's script is root of ids that are nobody's, and sees none of the host's files", async () => {
  const seen = await preinst(
    `id -u; cat /proc/self/uid_map; cat /etc/shadow '${dir}/key.pem' 2>&1; ls / /home /root 2>&1; true`,
  );
  expect(seen).toMatch(/^0\n/);
  expect(seen).toMatch(/shadow: No such file/);
  expect(seen).toMatch(/key\.pem: No such file/);
  expect(seen).not.toContain('SECRET');
  // The folders on the way to the tool's own files are there, and nothing else in them.
  const [way = ''] = PACKAGE_ROOT.split('/').slice(1);
  const hidden = ['home', 'var', 'srv', 'opt', 'mnt', 'media', 'boot'].filter((each) => each !== way);
  expect(seen.split('\n').filter((line) => hidden.includes(line))).toEqual([]);
  expect((await preinst(`find /home -maxdepth 2 -name '.*' 2>/dev/null; true`)).trim()).toBe('');
  const [, inside, outside, count] = /^\s*(\d+)\s+(\d+)\s+(\d+)$/m.exec(seen) ?? [];
  expect(inside).toBe('0');
  expect(Number(outside)).toBeGreaterThan(0);
  expect(Number(count)).toBeLessThanOrEqual(65_536);
});

test('it writes to its own folder alone, as another user, and nothing that it may do reaches outside', async () => {
  const outcome = await preinst(`
    echo x >'${box}/made' && chown 5:6 '${box}/made' && echo own
    for path in /usr/made /etc/made '${dir}/made' '${PACKAGE_ROOT}/cloud-init/sandbox/dpkg'; do
      { echo x >>"$path"; } 2>/dev/null && echo "wrote $path"
    done
    mount -o remount,rw,bind /usr 2>/dev/null && echo 'remounted /usr'
    umount /usr 2>/dev/null && echo 'unmounted /usr'
    mknod '${box}/disk' b 8 0 2>/dev/null && echo 'made a device'
    ls /proc | grep -c '^[0-9]'`);
  const [own, ...rest] = outcome.trim().split('\n');
  expect(own).toBe('own');
  const processes = rest.pop();
  // What it wrote there is in a root folder of the sandbox's own, in memory, which ends with it.
  expect(rest.filter((line) => !line.startsWith(`wrote ${dir}`) && line !== 'wrote /etc/made')).toEqual([]);
  expect(Number(processes)).toBeLessThan(12);
  for (const path of ['/etc/made', '/usr/made', join(dir, 'made')])
    await expect(stat(path)).rejects.toThrow('ENOENT');
  const { uid } = await stat(join(box, 'made'));
  expect(uid).not.toBe(5);
  expect(uid).toBeGreaterThan(65_535);
});

test("dpkg's stand-in takes the network away from scripts, the host's loopback too", async () => {
  const bin = join(dir, 'bin');
  await mkdir(bin);
  const text = await readFile(join(PACKAGE_ROOT, 'cloud-init', 'sandbox', 'dpkg'), 'utf8');
  const wrapper = join(bin, 'dpkg');
  await writeFile(wrapper, text.replaceAll('/usr/bin/dpkg', '/usr/bin/readlink /proc/self/ns/net #'));
  await chmod(wrapper, 0o755);
  const inside = await nativeSandbox({
    ...{ arch: HOST_ARCH, scratch: dir, network: true, readable: [bin], writable: [box] },
  });
  const [file, ...args] = inside.command;
  const script = `readlink /proc/self/ns/net; '${wrapper}' --status-fd 9 --configure x; '${wrapper}' --print-architecture`;
  const [host, configuring, printing] = (await run(file, [...args, 'sh', '-c', script])).stdout
    .trim()
    .split('\n');
  expect(configuring).not.toBe(host);
  expect(printing).toBe(host);
});

test('without a network there is none', async () => {
  const cut = await nativeSandbox({
    arch: HOST_ARCH,
    scratch: dir,
    network: false,
    readable: [],
    writable: [],
  });
  const [file, ...args] = cut.command;
  const { stdout } = await run(file, [...args, 'sh', '-c', 'tail -n +3 /proc/net/dev']);
  expect(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.trim().split(':')[0]),
  ).toEqual(['lo']);
  await rm(join(dir, 'ids'), { force: true });
});
