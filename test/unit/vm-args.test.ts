import { expect, test } from 'vitest';
import { qemuArgs, type VmConfig } from '../../src/vm/args.js';

const config: VmConfig = {
  accel: 'tcg',
  cpu: 'max',
  cpus: 2,
  memoryMiB: 2048,
  disk: '/runs/a,b/disk.qcow2',
  seed: '/runs/a,b/seed.iso',
  boot: { kind: 'loader', firmware: 'bios' },
  qmpSocket: '/run/q',
  consoleSocket: '/run/c',
  consoleLog: '/runs/a,b/console.log',
  egress: true,
};

test('a comma in a path does not end the value', () => {
  const args = qemuArgs(config);
  expect(args.some((a) => a.endsWith('file=/runs/a,,b/disk.qcow2'))).toBe(true);
  expect(args.some((a) => a.includes('logfile=/runs/a,,b/console.log'))).toBe(true);
  expect(args.filter((a) => /\/runs\/a,b\//.test(a))).toEqual([]);
});

test('a VM without egress has the restricted management NIC alone', () => {
  const netdevs = (egress: boolean): string[] => {
    const args = qemuArgs({ ...config, egress });
    return args.filter((_, i) => args[i - 1] === '-netdev');
  };
  expect(netdevs(true)).toHaveLength(2);
  const [only, ...rest] = netdevs(false);
  expect(rest).toEqual([]);
  expect(only).toContain('restrict=on');
  expect(only).toContain('hostfwd=tcp:127.0.0.1:0-');
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
