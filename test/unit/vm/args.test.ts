import { expect, test } from 'vitest';
import { qemuArgs, type VmConfig } from '../../../src/vm/args.js';

const config: VmConfig = {
  arch: 'x86_64',
  accel: 'tcg',
  cpu: 'max',
  cpus: 2,
  memoryMiB: 2048,
  disk: '/runs/a,b/disk.qcow2',
  seed: '/runs/a,b/seed.iso',
  boot: { kind: 'loader', firmware: 'bios' },
  qmpSocket: '/run/q',
  consoleSocket: '/run/c',
  consolePipe: '/runs/a,b/log',
  channelSocket: '/run/h',
  compilerSocket: '/run/c',
  forwardSocket: null,
  memory: { kind: 'own' },
  network: 'login',
  incoming: false,
};

test('a comma in a path does not end the value', () => {
  const args = qemuArgs(config);
  expect(args.some((a) => a.endsWith('file=/runs/a,,b/disk.qcow2'))).toBe(true);
  expect(args.some((a) => a.includes('logfile=/runs/a,,b/log'))).toBe(true);
  expect(args.filter((a) => /\/runs\/a,b\//.test(a))).toEqual([]);
});

test('the management NIC is restricted to ssh from this host', () => {
  const netdevs = qemuArgs(config).filter((_, i, args) => args[i - 1] === '-netdev');
  const management = netdevs.find((n) => n.startsWith('user,id=management'));
  expect(management).toContain('restrict=on');
  expect(management).toContain('hostfwd=tcp:127.0.0.1:0-');
});

test('without a network nothing of it leads anywhere; the devices are the same', () => {
  const none = qemuArgs({ ...config, network: 'none' });
  const netdevs = none.filter((_, i, args) => args[i - 1] === '-netdev');
  expect(netdevs).toHaveLength(2);
  for (const netdev of netdevs) expect(netdev).toMatch(/,restrict=on(?!.*(?:hostfwd|guestfwd))/);
  const devices = (args: string[]): string[] => args.filter((_, i) => args[i - 1] === '-device');
  for (const network of ['login', 'egress'] as const)
    expect(devices(qemuArgs({ ...config, network }))).toEqual(devices(none));
  const out = (network: VmConfig['network']): string | undefined =>
    qemuArgs({ ...config, network }).find((each) => each.startsWith('user,id=egress'));
  expect(out('login')).toContain('restrict=on');
  expect(out('egress')).not.toContain('restrict');
});

test('one address leads out of the restricted network, and only when it is asked for', () => {
  const text = (forwardSocket: string | null): string => qemuArgs({ ...config, forwardSocket }).join(' ');
  expect(text(null)).not.toMatch(/guestfwd|forward/);
  expect(text('/run/a,b/f')).toContain('socket,id=forward,path=/run/a,,b/f,server=on,wait=off');
  expect(text('/run/f')).toMatch(
    /id=management,\S*restrict=on\S*,guestfwd=tcp:10\.0\.3\.100:80-chardev:forward /,
  );
});

test('a clone may only read the memory file and waits for its state; a snapshot being made writes it through', () => {
  const file = { kind: 'file' as const, path: '/c/a,b/ram' };
  const clone = qemuArgs({ ...config, memory: { ...file, shared: false }, incoming: true });
  expect(clone).toContain(
    'memory-backend-file,id=ram,size=2048M,mem-path=/c/a,,b/ram,share=off,readonly=on,rom=off',
  );
  expect(clone[clone.indexOf('-machine') + 1]).toContain('memory-backend=ram');
  expect(clone[clone.indexOf('-incoming') + 1]).toBe('defer');
  const made = qemuArgs({ ...config, memory: { ...file, shared: true } });
  expect(made.some((a) => a.endsWith('share=on'))).toBe(true);
  expect(made).not.toContain('-incoming');
});

test('direct boot names kernel, initrd and command line, and leaves the boot index to it', () => {
  const boot = { kind: 'direct' as const, vmlinuz: '/l/vmlinuz', initrd: '/l/initrd', cmdline: 'root=x ro' };
  const args = qemuArgs({ ...config, boot });
  expect(args.slice(args.indexOf('-kernel'))).toEqual([
    ...['-kernel', '/l/vmlinuz', '-initrd', '/l/initrd', '-append', 'root=x ro'],
  ]);
  expect(args.some((a) => a.includes('bootindex'))).toBe(false);
});

test('UEFI brings its code read-only and its own variables', () => {
  const boot = { kind: 'loader' as const, firmware: 'uefi' as const, code: '/f/code.fd', vars: '/r/vars.fd' };
  const pflash = qemuArgs({ ...config, boot }).filter((a) => a.startsWith('if=pflash'));
  expect(pflash).toEqual([
    'if=pflash,unit=0,format=raw,readonly=on,file=/f/code.fd',
    'if=pflash,unit=1,format=raw,file=/r/vars.fd',
  ]);
});

test('a kernel that is booted directly through UEFI finds the firmware in front of it', () => {
  const uefi = { code: '/f/code.fd', vars: '/r/a,b/vars.fd' };
  const boot = { kind: 'direct' as const, vmlinuz: '/l/vmlinuz', initrd: '/l/initrd', cmdline: 'ro', uefi };
  const args = qemuArgs({ ...config, boot });
  expect(args.filter((a) => a.startsWith('if=pflash'))).toEqual([
    'if=pflash,unit=0,format=raw,readonly=on,file=/f/code.fd',
    'if=pflash,unit=1,format=raw,file=/r/a,,b/vars.fd',
  ]);
  expect(args).toContain('-kernel');
});

test('an aarch64 VM has the devices of its own board, and none of the PC', () => {
  const args = qemuArgs({ ...config, arch: 'aarch64' }).join(' ');
  expect(args).toMatch(/-machine virt,\S*accel=tcg/);
  expect(args).not.toMatch(/q35|vmport|vmgenid/);
});
