import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { run } from '../../../src/lib/exec.js';
import { isRoot, sandboxWorks } from '../../../src/lib/sandbox.js';
import { CUT_MARK, ConsoleLog } from '../../../src/vm/console-log.js';
import { mapsReadOnly } from '../../../src/vm/qemu-binary.js';
import { keepQemuLog, QEMU_LOG_CUT } from '../../../src/vm/qemu-log.js';
import { Vm, type VmSpec } from '../../../src/vm/vm.js';

let dir = '';
beforeEach(async (context) => {
  dir = await mkdtemp(join(tmpdir(), 'dkms2bin-vm-'));
  process.env.XDG_RUNTIME_DIR = dir;
  await sandboxWorks().catch((error: Error) => context.skip(error.message));
});
afterEach(async () => {
  delete process.env.XDG_RUNTIME_DIR;
  await rm(dir, { recursive: true, force: true });
});

async function spec(network: VmSpec['network']): Promise<VmSpec> {
  const [disk, base, seed] = [join(dir, 'disk.qcow2'), join(dir, 'base.qcow2'), join(dir, 'seed.iso')];
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', base, '1M']);
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, disk]);
  await writeFile(seed, Buffer.alloc(2048));
  await writeFile(join(dir, 'id'), 'A PRIVATE KEY', { mode: 0o600 });
  return {
    ...{ arch: 'x86_64', accel: 'tcg', cpu: 'Nehalem', cpus: 1, memoryMiB: 64, disk, seed, network },
    ...{ boot: { kind: 'loader', firmware: 'bios' }, memory: { kind: 'own' } },
    // Nothing runs in it.
    ...{ incoming: true, forward: false, egress: false, backings: [base] },
  };
}

/** The process of QEMU itself below those that confine it. */
async function qemuBelow(pid: number): Promise<string> {
  const children = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ').filter(Boolean);
  for (const child of children) return qemuBelow(Number(child));
  return `/proc/${pid}`;
}

test.each(['none', 'login'] as const)(
  'QEMU with network %s: whose it is, and what it sees',
  async (network) => {
    await using vm = await Vm.start(await spec(network), dir);
    const qemu = await qemuBelow(vm.pid!);
    const status = await readFile(`${qemu}/status`, 'utf8');
    expect(status).toMatch(/^Name:\s+qemu-system/);
    expect(status).toMatch(/^CapEff:\s+0+$/m);
    expect(status).toMatch(/^CapPrm:\s+0+$/m);
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    expect(status).toMatch(/^Seccomp:\s+2$/m);
    const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]);
    if (isRoot()) {
      expect(uid).toBeGreaterThan(65_536);
      expect(status).toMatch(/^CapBnd:\s+0+$/m);
      expect((await stat(join(dir, 'disk.qcow2'))).uid).toBe(uid);
    } else expect(uid).toBe(process.getuid?.());
    for (const kind of ['mnt', 'pid', 'ipc', 'uts'])
      expect(await readlink(`${qemu}/ns/${kind}`)).not.toBe(await readlink(`/proc/self/ns/${kind}`));
    const ownNetwork = (await readlink(`${qemu}/ns/net`)) !== (await readlink('/proc/self/ns/net'));
    expect(ownNetwork).toBe(network === 'none');
    expect(vm.sshPort === null).toBe(network === 'none');
    // By the mounts, as only a process of its own user may look into its root folder.
    const mounts = (await readFile(`${qemu}/mountinfo`, 'utf8')).split('\n').map((line) => line.split(' '));
    const places = mounts.map((fields) => fields[4] ?? '');
    expect(places).toContain(join(dir, 'disk.qcow2'));
    expect(places.filter((place) => place === '/home' || place === '/root' || place === dir)).toEqual([]);
    const options = (path: string): string => mounts.find((fields) => fields[4] === path)?.[5] ?? '';
    expect(options(join(dir, 'base.qcow2'))).toMatch(/^ro/);
    expect(options(join(dir, 'disk.qcow2'))).toMatch(/^rw/);
  },
);

test('no clone can write the memory that all clones of a snapshot begin with', async () => {
  const [ram, state] = [join(dir, 'ram'), join(dir, 'state')];
  await writeFile(ram, Buffer.alloc(64 << 20));
  await writeFile(state, Buffer.alloc(4096), { mode: 0o644 });
  const clone = await spec('none');
  const mapped = Vm.start({ ...clone, memory: { kind: 'file', path: ram, shared: false } }, dir);
  if (await mapsReadOnly('x86_64')) {
    await using vm = await mapped;
    const qemu = await qemuBelow(vm.pid!);
    const maps = (await readFile(`${qemu}/maps`, 'utf8')).split('\n').filter((line) => line.endsWith(ram));
    expect(maps.length).toBeGreaterThan(0);
    expect(maps.filter((line) => /^\S+ .w.s/.test(line))).toEqual([]);
    const mounts = (await readFile(`${qemu}/mountinfo`, 'utf8')).split('\n').map((line) => line.split(' '));
    expect(mounts.find((fields) => fields[4] === ram)?.[5]).toMatch(/^ro/);
  } else {
    // An older one would open it for writing, and cannot: its memory comes with the state, which it reads through a descriptor.
    await expect(mapped).rejects.toThrow(/Invalid parameter|Read-only file system|Permission denied/);
    await using vm = await Vm.start({ ...clone, state }, dir);
    const qemu = await qemuBelow(vm.pid!);
    const held: number[] = [];
    for (const fd of await readdir(`${qemu}/fd`)) {
      if ((await readlink(`${qemu}/fd/${fd}`).catch(() => '')) !== state) continue;
      const info = await readFile(`${qemu}/fdinfo/${fd}`, 'utf8');
      held.push(parseInt(/^flags:\s+(\d+)/m.exec(info)?.[1] ?? '7', 8) & 3);
    }
    // O_RDONLY.
    expect(held).toEqual([0]);
    const mounts = await readFile(`${qemu}/mountinfo`, 'utf8');
    expect(mounts).not.toContain(` ${state} `);
  }
});

test('a VM leaves no folder of sockets, and one that a killed process left goes with the next', async () => {
  const folders = async (): Promise<string[]> => (await readdir(dir)).filter((name) => /dk2b-/.test(name));
  await writeFile(join(await mkdtemp(join(dir, 'dk2b-')), 'lock'), '');
  expect(await folders()).toHaveLength(1);
  {
    await using vm = await Vm.start(await spec('none'), dir);
    expect(await folders()).toEqual([vm.socketDir.slice(dir.length + 1).split('/')[0]]);
  }
  expect(await folders()).toEqual([]);
});

test('a console that prints without end is cut with a mark, and its last lines are known', async () => {
  const [pipe, log] = [join(dir, 'pipe'), join(dir, 'console.log')];
  using console = await ConsoleLog.open(pipe, log, 1000);
  await run('sh', ['-c', `seq 1 20000 >'${pipe}'`]);
  expect(console.tail(2)).toBe('19999\n20000');
  const kept = await readFile(log, 'utf8');
  expect(kept.slice(0, 1000)).toMatch(/^1\n2\n/);
  expect(kept.slice(1000)).toBe(CUT_MARK);
});

test("QEMU's own complaints are cut with a mark, and are quoted when it does not start", async () => {
  const log = join(dir, 'qemu.log');
  const endless = spawn('sh', ['-c', 'head -c 3000000 /dev/zero | tr "\\0" x >&2'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  await keepQemuLog(endless.stderr, log);
  const kept = await readFile(log, 'utf8');
  expect(kept.slice(0, 1 << 20)).toBe('x'.repeat(1 << 20));
  expect(kept.slice(1 << 20)).toBe(QEMU_LOG_CUT);
  const wrong = { ...(await spec('none')), cpu: 'no-such-cpu' };
  await expect(Vm.start(wrong, dir)).rejects.toThrow(/before the VM ran:\n[^]*no-such-cpu/);
});
