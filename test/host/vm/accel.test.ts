import { HOST_ARCH } from '../../../src/model/cell.js';
import { execFileSync } from 'node:child_process';
import { chmod, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Event } from '../../../src/model/events.js';
import { chooseAccelerator, cpuOfLevel, kvmTrouble, probeAccelerators } from '../../../src/vm/accel.js';
import { probeRom, PROBE_EXPECTED_OFFSET } from '../../../src/vm/probe-guest.js';
import { describeFailure, runProbeGuest } from '../../../src/vm/probe-run.js';

let qemu = '';
try {
  qemu = execFileSync('sh', ['-c', 'command -v qemu-system-x86_64'], { encoding: 'utf8' }).trim();
} catch {
  // The tests that need it say that they are skipped.
}
const signal = new AbortController().signal;
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'accel-test-'));
  // Root's probe runs as nobody, and so does what stands in for QEMU.
  await chmod(folder, 0o755);
  await writeFile(join(folder, 'starts'), '');
  await chmod(join(folder, 'starts'), 0o666);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** The guest's computation, written a second time. */
function expectedResult(): bigint {
  const words = new Uint32Array(1 << 18);
  const pages = new Uint32Array(512);
  let x = 0x12345678;
  let sum = 0n;
  for (let round = 0; round < 64; round++) {
    for (let i = 0; i < 600_000; i++) {
      x = (Math.imul(x, 1664525) + 1013904223) | 0;
      words[x >>> 14]! += x;
    }
    for (let i = 0; i < 512; i++) {
      pages[i]! += x;
      sum += BigInt(pages[i]!);
    }
  }
  for (const word of words) sum = BigInt.asUintN(64, sum * 0x9e3779b97f4a7c15n + BigInt(word));
  return BigInt.asUintN(64, sum * 0x9e3779b97f4a7c15n + BigInt(64 * 512));
}

/** A stand-in for QEMU; $accel and $cpu are set for `body`. Each start adds a line to `starts`. */
async function fakeQemu(body: string): Promise<string> {
  const path = join(folder, 'qemu');
  const lines = [
    '#!/bin/sh',
    `echo start >> '${folder}/starts'`,
    'for a; do case "$prev" in -cpu) cpu=$a;; -machine) accel=${a#*accel=};; esac; prev=$a; done',
    'guest() { printf S; sleep "$1"; printf E; exit "$2"; }',
    body,
  ];
  await writeFile(path, lines.join('\n'));
  await chmod(path, 0o755);
  return path;
}
const starts = async (): Promise<number> =>
  (await readFile(join(folder, 'starts'), 'utf8')).trim().split('\n').length;

/** A file that can be opened stands for /dev/kvm. */
async function options(body: string): Promise<Parameters<typeof probeAccelerators>[0]> {
  const kvmDevice = join(folder, 'kvm');
  await writeFile(kvmDevice, '');
  return {
    signal,
    qemu: await fakeQemu(body),
    kvmDevice,
    cacheFile: join(folder, 'cache', 'accelerator.json'),
  };
}

test('the ROM carries the result of its computation', () => {
  expect(probeRom().readBigUInt64LE(PROBE_EXPECTED_OFFSET)).toBe(expectedResult());
});

describe.skipIf(qemu === '')('with qemu-system-x86_64 (skipped when not installed)', () => {
  const tcg = { accel: 'tcg', cpu: 'max', deadlineMs: 60_000 } as const;

  test('TCG computes the right result', async () => {
    const run = await runProbeGuest({ ...tcg, signal, qemu });
    expect(run.outcome).toBe('right');
    if (run.outcome === 'right') expect(run.seconds).toBeGreaterThan(0.02);
  });

  test('another result is told from the right one', async () => {
    const rom = probeRom();
    rom[PROBE_EXPECTED_OFFSET]! ^= 1;
    expect(await runProbeGuest({ ...tcg, signal, qemu, rom })).toEqual({ outcome: 'wrong' });
  });

  test('an abort ends it', async () => {
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(), 100);
    await expect(runProbeGuest({ ...tcg, signal: aborter.signal, qemu })).rejects.toMatchObject({
      fault: 'interrupted',
    });
  });

  test('no KVM: TCG, with the reason, and the second time from the cache', async () => {
    const cacheFile = join(folder, 'accelerator.json');
    const wrapped = await fakeQemu(`exec '${qemu}' "$@"`);
    const opts = { signal, qemu: wrapped, kvmDevice: join(folder, 'none'), cacheFile };
    const first = await probeAccelerators(opts);
    expect(first).toMatchObject({ chosen: 'tcg', cached: false, kvm: { available: false } });
    expect(first.reason).toContain('does not exist');
    const second = await probeAccelerators(opts);
    expect(second).toEqual({ ...first, cached: true });
    expect(await starts()).toBe(1);
  });
});

describe('choice', () => {
  test('the faster wins, and the answer is kept until forced', async () => {
    const opts = await options('[ $accel = kvm ] && guest 0.05 85; guest 0.4 85');
    const report = await probeAccelerators(opts);
    expect(report).toMatchObject({ chosen: 'kvm', kvm: { available: true, cpu: 'host' }, cached: false });
    expect((await probeAccelerators(opts)).cached).toBe(true);
    expect(await starts()).toBe(2);
    expect((await probeAccelerators({ ...opts, force: true })).cached).toBe(false);
    expect(await starts()).toBe(4);
    expect(await readdir(join(folder, 'cache'))).toEqual(['accelerator.json']);
  });

  test('a right but slower KVM loses; forced it is used with a warning', async () => {
    const opts = await options('[ $accel = kvm ] && guest 0.5 85; guest 0.1 85');
    const events: Event[] = [];
    const emit = (event: Event): void => void events.push(event);
    expect(await chooseAccelerator('auto', 'x86_64', { ...opts, emit })).toEqual({
      name: 'tcg',
      cpu: 'Nehalem',
    });
    expect(await chooseAccelerator('kvm', 'x86_64', { ...opts, emit })).toEqual({ name: 'kvm', cpu: 'host' });
    expect(events).toMatchObject([
      { type: 'note', level: 'warn', message: expect.stringContaining('TCG, KVM is slower') as string },
      { type: 'note', level: 'warn', message: expect.stringContaining('as asked for, though') as string },
    ]);
  });

  test('a KVM that does not come to an end is stopped', async () => {
    const report = await probeAccelerators(
      await options('[ $accel = kvm ] && { printf S; exec sleep 60; }; guest 0.1 85'),
    );
    expect(report).toMatchObject({ chosen: 'tcg', kvm: { available: false } });
    expect(report.reason).toContain('was not done after 2.0 s');
  });

  test('a KVM with a wrong result is not used, forced it is an error of the host', async () => {
    const opts = await options('[ $accel = kvm ] && guest 0 43; guest 0.1 85');
    expect((await probeAccelerators(opts)).kvm.error).toContain('wrong result');
    await expect(chooseAccelerator('kvm', 'x86_64', { ...opts, emit: () => {} })).rejects.toMatchObject({
      fault: 'host',
      message: expect.stringContaining('wrong result') as string,
    });
  });

  test('QEMU failing with -cpu host gets a second chance', async () => {
    const body =
      '[ $cpu = host ] && { echo "failed to set MSR" >&2; exit 1; }; [ $accel = kvm ] && guest 0 85; guest 0.2 85';
    const choice = await chooseAccelerator('auto', 'x86_64', { ...(await options(body)), emit: () => {} });
    expect(choice).toEqual({ name: 'kvm', cpu: 'host,-arch-capabilities' });
  });

  test('QEMU failing under KVM is reported, not remembered', async () => {
    const opts = await options(
      '[ $accel = kvm ] && { echo "Device or resource busy" >&2; exit 1; }; guest 0.1 85',
    );
    expect((await probeAccelerators(opts)).reason).toContain('Device or resource busy');
    expect((await probeAccelerators(opts)).cached).toBe(false);
  });

  test('neither works: the host cannot', async () => {
    await expect(probeAccelerators(await options('exit 1'))).rejects.toMatchObject({ fault: 'host' });
  });

  test('no QEMU: says what to install', async () => {
    await expect(probeAccelerators({ signal, qemu: join(folder, 'none') })).rejects.toMatchObject({
      fault: 'host',
      message: expect.stringContaining('is not installed') as string,
    });
  });

  test('forced TCG measures nothing', async () => {
    const events: Event[] = [];
    const emit = (event: Event): void => void events.push(event);
    const choice = await chooseAccelerator('tcg', 'x86_64', { signal, emit, qemu: join(folder, 'none') });
    expect(choice.name).toBe('tcg');
    expect(events).toHaveLength(1);
  });

  // This test's host is either of the two.
  test('a guest of another processor is emulated, and the run says so; KVM cannot be forced', async () => {
    const foreign = HOST_ARCH === 'x86_64' ? 'aarch64' : 'x86_64';
    const opts = await options('exit 1');
    const events: Event[] = [];
    const emit = (event: Event): void => void events.push(event);
    expect(await chooseAccelerator('auto', foreign, { ...opts, emit })).toMatchObject({ name: 'tcg' });
    expect(events).toMatchObject([{ level: 'warn', message: expect.stringContaining(foreign) as string }]);
    await expect(chooseAccelerator('kvm', foreign, { ...opts, emit })).rejects.toMatchObject({
      fault: 'host',
      message: expect.stringContaining('cannot be used') as string,
    });
    const absent = { signal, emit, qemu: join(folder, 'none') };
    await expect(chooseAccelerator('auto', foreign, absent)).rejects.toThrow('is not installed');
  });
});

describe('the KVM device', () => {
  test('absent', async () => expect(await kvmTrouble(join(folder, 'none'))).toContain('does not exist'));

  test('unreadable: group kvm', async () => {
    const device = join(folder, 'kvm');
    await writeFile(device, '', { mode: 0 });
    // Root opens everything, so become nobody for the moment.
    const root = process.geteuid?.() === 0;
    if (root) process.seteuid?.(65534);
    try {
      expect(await kvmTrouble(device)).toContain('add the user to group kvm');
    } finally {
      if (root) process.seteuid?.(0);
    }
  });
});

test.skipIf(qemu === '' || HOST_ARCH !== 'x86_64')(
  `TCG has what x86-64-v3 asks for, and says what of v4 it lacks${qemu === '' ? ' (skipped: no QEMU)' : ''}`,
  async () => {
    const run = (level: number) => {
      const cpu = cpuOfLevel({ accel: 'tcg', cpu: 'Nehalem' }, level);
      return runProbeGuest({ signal, qemu, accel: 'tcg', cpu, deadlineMs: 60_000 });
    };
    expect(await run(3)).toMatchObject({ outcome: 'right' });
    const run4 = await run(4);
    expect(run4.outcome).toBe('failed');
    expect(describeFailure(run4 as Exclude<typeof run4, { outcome: 'right' }>)).toContain(
      "TCG doesn't support",
    );
  },
);
