import { createHash } from 'node:crypto';
import { mkdir, open, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { HOST_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { cacheDir } from '../lib/paths.js';
import { isRoot } from '../lib/sandbox.js';
import { probeRom } from './probe-guest.js';
import { describeFailure, runProbeGuest, type AccelName, type ProbeRun } from './probe-run.js';
import { findQemu } from './qemu-binary.js';

/**
 * The CPUs that TCG emulates. x86-64-v2, which every kernel and compiler here runs on: `max` brings AVX, which the guest's
 * C library then uses and which costs more to emulate, about a tenth of a build's CPU seconds, a quarter of a boot's.
 * Armv8.2: `max` has pointer authentication, which doubles the CPU seconds; Cortex-A72 lacks pages of 16 KiB.
 */
const TCG_CPU: Record<Arch, string> = { x86_64: 'Nehalem', aarch64: 'neoverse-n1' };

/**
 * What the levels of x86-64 ask for beyond v2. Linux takes no xsave, and without it no AVX, from a CPU whose cpuid does not go as
 * far as its leaf (0xd); without xsaveopt 6.12 hangs as it boots under QEMU 7.2.
 */
const LEVELS: Record<number, string> = {
  3: 'level=13,+xsave,+xsaveopt,+avx,+avx2,+bmi1,+bmi2,+f16c,+fma,+abm,+movbe',
  4: '+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl',
};

/** The -cpu model for programs of an x86-64 level: `enforce` makes QEMU name what it cannot emulate, and end (AVX2 came with 7.2). */
export function cpuOfLevel({ accel, cpu }: { accel: AccelName; cpu: string }, level: number): string {
  const more = accel === 'tcg' ? [3, 4].filter((each) => each <= level).map((each) => LEVELS[each]) : [];
  return more.length === 0 ? cpu : [cpu, ...more, 'enforce'].join(',');
}

/**
 * CPU models in the order tried. `host` copies MSRs that some nested hosts then refuse ("failed to set MSR 0x10a"
 * and an abort); without arch-capabilities QEMU starts there.
 */
const CPU_MODELS = { tcg: [TCG_CPU.x86_64], kvm: ['host', 'host,-arch-capabilities'] } as const;

/** TCG needs half a second; a host where it needs more than this is not fit to build kernels' modules. */
const TCG_DEADLINE_MS = 60_000;

const Report = z.object({
  chosen: z.enum(['kvm', 'tcg']),
  /** One sentence for a person: what was chosen and why. */
  reason: z.string(),
  /** Figures are seconds of guest run time, QEMU's own start not counted. `cpu` is the -cpu model that ran. */
  kvm: z.object({
    available: z.boolean(),
    seconds: z.number().optional(),
    cpu: z.string().optional(),
    error: z.string().optional(),
  }),
  tcg: z.object({ seconds: z.number().optional(), cpu: z.string(), error: z.string().optional() }),
  /** /proc/sys/kernel/random/boot_id of the host's boot the figures belong to. */
  bootId: z.string(),
  /** True when the figures come from an earlier run in this boot. */
  cached: z.boolean(),
});
type AccelReport = z.infer<typeof Report>;

const CacheFile = z.object({ key: z.string(), report: Report });

export interface ProbeOptions {
  signal: AbortSignal;
  /** Measures again even when this boot's figures are known. */
  force?: boolean;
  /** What follows is for tests. */
  qemu?: string;
  kvmDevice?: string;
  cacheFile?: string;
  rom?: Buffer;
}

/** What to give QEMU: `-machine …,accel=<name>` and `-cpu <cpu>`. */
export interface Accelerator {
  name: AccelName;
  cpu: string;
}

/**
 * Null when the device can be opened for reading and writing, else the reason and the remedy.
 *
 * @internal
 */
export async function kvmTrouble(device = '/dev/kvm'): Promise<string | null> {
  try {
    await (await open(device, 'r+')).close();
    return null;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    if (code === 'ENOENT') {
      return `${device} does not exist (no hardware virtualisation, or the module kvm_intel or kvm_amd is not loaded)`;
    }
    if (code === 'EACCES' || code === 'EPERM') {
      return `this user may not open ${device} (add the user to group kvm: sudo usermod -aG kvm "$USER", then log in again)`;
    }
    return `${device} cannot be opened: ${code}`;
  }
}

/** Times the accelerators with real guest code, once per host boot, QEMU binary and state of /dev/kvm. */
export async function probeAccelerators(options: ProbeOptions): Promise<AccelReport> {
  const qemu = await findQemu(options.qemu ?? 'qemu-system-x86_64');
  const device = options.kvmDevice ?? '/dev/kvm';
  const rom = options.rom ?? probeRom();
  const trouble = await kvmTrouble(device);
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const file = options.cacheFile ?? join(cacheDir(), 'accelerator.json');
  const binary = await stat(qemu);
  // Part of the key: who joins group kvm or loads the module is measured again without a reboot. Root's probe runs as
  // nobody, to whom the device's mode may say no.
  const node = await stat(device).catch(() => null);
  const access = [trouble, isRoot(), node && [node.mode, node.gid]];
  const key = createHash('sha256')
    .update(JSON.stringify([bootId, qemu, binary.size, binary.mtimeMs, device, access, CPU_MODELS]))
    .update(rom)
    .digest('hex');
  if (options.force !== true) {
    const known = await readCache(file, key);
    if (known) return { ...known, cached: true };
  }

  const probe: Probe = ({ accel, cpu, deadlineMs }) =>
    runProbeGuest({ signal: options.signal, qemu, rom, accel, cpu, deadlineMs });
  const tcg = await measureTcg(probe);
  const kvm: Measured<'kvm'> =
    trouble === null ? await measureKvm(probe, tcg.figures.seconds) : refused(trouble);
  const figures = { kvm: kvm.figures, tcg: tcg.figures };
  const report: AccelReport = { ...faster(figures), ...figures, bootId, cached: false };
  if (tcg.durable && kvm.durable) await writeCache(file, key, report);
  return report;
}

type Probe = (how: { accel: AccelName; cpu: string; deadlineMs: number }) => Promise<ProbeRun>;

interface Measured<Name extends AccelName> {
  figures: AccelReport[Name];
  /** Whether the same would come out until the host boots again. */
  durable: boolean;
}

async function measureTcg(probe: Probe): Promise<Measured<'tcg'>> {
  const cpu = TCG_CPU.x86_64;
  const run = await probe({ accel: 'tcg', cpu, deadlineMs: TCG_DEADLINE_MS });
  return run.outcome === 'right'
    ? { figures: { seconds: run.seconds, cpu }, durable: true }
    : { figures: { cpu, error: describeFailure(run) }, durable: false };
}

const refused = (error: string, durable = true): Measured<'kvm'> => ({
  figures: { available: false, error },
  durable,
});

/** Stopped when it takes three times as long as TCG: it would not be chosen. */
async function measureKvm(probe: Probe, tcgSeconds = 0): Promise<Measured<'kvm'>> {
  const deadlineMs = Math.max(3000 * tcgSeconds, 2000);
  const errors: string[] = [];
  for (const cpu of CPU_MODELS.kvm) {
    const run = await probe({ accel: 'kvm', cpu, deadlineMs });
    if (run.outcome === 'right') {
      return { figures: { available: true, seconds: run.seconds, cpu }, durable: true };
    }
    errors.push(`-cpu ${cpu}: ${describeFailure(run)}`);
    if (run.outcome !== 'failed') return refused(errors.join('; '));
    // Only a QEMU that never ran guest code may fare better with another CPU.
    if (run.started) break;
  }
  // EBUSY of another hypervisor and the like pass: not to be remembered until the next boot.
  return refused(errors.join('; '), false);
}

/**
 * The accelerator for this run. `auto` measures (or remembers) and says what it took and why; a forced KVM must have
 * run the probe guest rightly; a forced TCG is taken as it is.
 */
export async function chooseAccelerator(
  option: 'auto' | AccelName,
  arch: Arch,
  context: { emit: Emit } & ProbeOptions,
): Promise<Accelerator> {
  const note = (level: 'info' | 'warn', message: string): void =>
    context.emit({ type: 'note', level, message });
  if (option === 'tcg') {
    note('info', 'Accelerator: TCG, as asked for');
    return { name: 'tcg', cpu: TCG_CPU[arch] };
  }
  if (arch !== HOST_ARCH) {
    const why = `KVM cannot run ${arch} guests on an ${HOST_ARCH} host`;
    if (option === 'kvm') {
      throw new Dkms2binError('host', `KVM was asked for and cannot be used: ${why}`, {
        hint: 'Leave the accelerator on auto, or force tcg.',
      });
    }
    // Before minutes of work that would be for nothing.
    await findQemu(context.qemu ?? `qemu-system-${arch}`);
    note('warn', `Accelerator: TCG; ${why}`);
    return { name: 'tcg', cpu: TCG_CPU[arch] };
  }
  const report = await probeAccelerators(context);
  const kvmCpu = report.kvm.cpu ?? CPU_MODELS.kvm[0];
  if (option === 'kvm') {
    if (!report.kvm.available) {
      throw new Dkms2binError(
        'host',
        `KVM was asked for and cannot be used: ${report.kvm.error ?? 'unknown'}`,
        {
          hint: 'Leave the accelerator on auto, or force tcg; `dkms2bin doctor` shows both measurements.',
        },
      );
    }
    if (report.chosen === 'kvm') note('info', 'Accelerator: KVM, as asked for');
    else note('warn', `Accelerator: KVM, as asked for, though: ${report.reason}`);
    return { name: 'kvm', cpu: kvmCpu };
  }
  note(report.chosen === 'kvm' ? 'info' : 'warn', `Accelerator: ${report.reason}`);
  return report.chosen === 'kvm' ? { name: 'kvm', cpu: kvmCpu } : { name: 'tcg', cpu: report.tcg.cpu };
}

/** The accelerator whose probe guest was done first. Throws fault `host` when neither ran it. */
function faster({ kvm, tcg }: Pick<AccelReport, 'kvm' | 'tcg'>): Pick<AccelReport, 'chosen' | 'reason'> {
  if (tcg.seconds === undefined) {
    if (kvm.seconds === undefined) {
      throw new Dkms2binError(
        'host',
        `QEMU cannot run a guest on this host. TCG: ${tcg.error ?? 'unknown'}. KVM: ${kvm.error ?? 'unknown'}`,
      );
    }
    return {
      chosen: 'kvm',
      reason: `KVM (${kvm.seconds} s for the probe guest); TCG failed: ${tcg.error ?? ''}`,
    };
  }
  if (kvm.seconds === undefined) {
    return {
      chosen: 'tcg',
      reason: `TCG (${tcg.seconds} s for the probe guest), KVM cannot be used: ${kvm.error ?? 'unknown'}`,
    };
  }
  const figures = `the probe guest takes ${kvm.seconds} s under KVM, ${tcg.seconds} s under TCG`;
  return kvm.seconds <= tcg.seconds
    ? { chosen: 'kvm', reason: `KVM: ${figures}` }
    : { chosen: 'tcg', reason: `TCG, KVM is slower (emulated?): ${figures}` };
}

async function readCache(file: string, key: string): Promise<AccelReport | null> {
  try {
    const parsed = CacheFile.safeParse(JSON.parse(await readFile(file, 'utf8')));
    return parsed.success && parsed.data.key === key ? parsed.data.report : null;
  } catch {
    return null;
  }
}

/** A cache that cannot be written costs the next run two seconds, no more: whoever needs the folder will complain. */
async function writeCache(file: string, key: string, report: AccelReport): Promise<void> {
  try {
    await mkdir(dirname(file), { recursive: true });
    await writeAtomic(Buffer.from(`${JSON.stringify({ key, report }, null, 2)}\n`), file);
  } catch {
    // Measured again.
  }
}
