import { createHash } from 'node:crypto';
import {
  access,
  constants,
  mkdir,
  mkdtemp,
  open,
  readFile,
  realpath,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { execa } from 'execa';
import { z } from 'zod';
import { HOST_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { missingTool } from '../lib/exec.js';
import { cacheDir } from '../lib/paths.js';
import { plain } from '../lib/text.js';
import { standardVariable } from '../lib/variables.js';

/**
 * The probe guest, as [bytes, assembly] (Intel syntax). Loaded at 0xf0000 in a 64 KiB ROM, `F000:0000` in real mode.
 *
 * It enters long mode with the first 16 MiB mapped one to one, and writes 'S' to the debug console. Then 64 rounds of
 *  - 600 000 calls of a step that mixes a number and adds it to one of 2^18 words in memory,
 *  - a page table emptied, CR3 reloaded, 512 pages touched, each coming back through a page fault,
 *  - 64 port writes.
 * About 350 million instructions, 33 thousand faults, 4 thousand exits. At the end every word is folded into 64 bits
 * and compared with the figure that test/unit/accel.test.ts computes anew; 'E' to the debug console, then 0x2a (right)
 * or 0x15 (wrong) to isa-debug-exit, which makes QEMU exit with 2v+1.
 *
 * RAM: 0x10000 PML4, 0x11000 PDPT, 0x12000 PD, 0x13000 the page table, 0x14000 IDT, stack below 0x80000,
 * words at 4 MiB, faulting pages at 8 MiB.
 */
const GUEST: readonly (readonly [bytes: string, asm: string])[] = [
  // start:
  ['fa', 'cli'],
  ['fc', 'cld'],
  ['2e660f0116d001', 'lgdtd cs:[gdtr]'],
  ['0f20c0', 'mov eax, cr0'],
  ['0c01', 'or al, 1'],
  ['0f22c0', 'mov cr0, eax'],
  ['66ea19000f000800', 'jmp far 0x08:0xf0000 + protected'],
  // .code32
  // protected:
  ['66b81000', 'mov ax, 0x10'],
  ['8ed8', 'mov ds, ax'],
  ['8ec0', 'mov es, ax'],
  ['8ed0', 'mov ss, ax'],
  ['bc00000800', 'mov esp, 0x80000'],
  ['bf00000100', 'mov edi, 0x10000'],
  ['31c0', 'xor eax, eax'],
  ['b900140000', 'mov ecx, 0x1400'],
  ['f3ab', 'rep stosd'],
  ['c7050000010003100100', 'mov dword ptr [0x10000], 0x11003'],
  ['c7050010010003200100', 'mov dword ptr [0x11000], 0x12003'],
  ['bf00200100', 'mov edi, 0x12000'],
  ['b883000000', 'mov eax, 0x83'],
  ['b908000000', 'mov ecx, 8'],
  // big:
  ['8907', 'mov [edi], eax'],
  ['0500002000', 'add eax, 0x200000'],
  ['83c708', 'add edi, 8'],
  ['e2f4', 'loop big'],
  ['c7052020010003300100', 'mov dword ptr [0x12020], 0x13003'],
  ['c705e040010082011800', 'mov dword ptr [0x140e0], offset fault + 0x180000'],
  ['c705e4400100008e0f00', 'mov dword ptr [0x140e4], 0x0f8e00'],
  ['b800000100', 'mov eax, 0x10000'],
  ['0f22d8', 'mov cr3, eax'],
  ['b820000000', 'mov eax, 0x20'],
  ['0f22e0', 'mov cr4, eax'],
  ['b9800000c0', 'mov ecx, 0xc0000080'],
  ['0f32', 'rdmsr'],
  ['0d00010000', 'or eax, 0x100'],
  ['0f30', 'wrmsr'],
  ['0f20c0', 'mov eax, cr0'],
  ['0d00000080', 'or eax, 0x80000000'],
  ['0f22c0', 'mov cr0, eax'],
  ['eab3000f001800', 'jmp far 0x18:0xf0000 + long'],
  // .code64
  // long:
  ['0f011d1c010000', 'lidt [rip + idtr]'],
  ['b053', 'mov al, 0x53'],
  ['e6e9', 'out 0xe9, al'],
  ['bb78563412', 'mov ebx, 0x12345678'],
  ['4531e4', 'xor r12d, r12d'],
  ['4531ed', 'xor r13d, r13d'],
  ['41bf40000000', 'mov r15d, 64'],
  // round:
  ['b9c0270900', 'mov ecx, 600000'],
  // work:
  ['e88c000000', 'call step'],
  ['ffc9', 'dec ecx'],
  ['75f7', 'jnz work'],
  ['bf00300100', 'mov edi, 0x13000'],
  ['31c0', 'xor eax, eax'],
  ['b900020000', 'mov ecx, 512'],
  ['f348ab', 'rep stosq'],
  ['0f20d8', 'mov rax, cr3'],
  ['0f22d8', 'mov cr3, rax'],
  ['bf00008000', 'mov edi, 0x800000'],
  // touch:
  ['011f', 'add [rdi], ebx'],
  ['8b07', 'mov eax, [rdi]'],
  ['4901c4', 'add r12, rax'],
  ['81c700100000', 'add edi, 0x1000'],
  ['81ff0000a000', 'cmp edi, 0xa00000'],
  ['72eb', 'jb touch'],
  ['b940000000', 'mov ecx, 64'],
  // ports:
  ['e680', 'out 0x80, al'],
  ['ffc9', 'dec ecx'],
  ['75fa', 'jnz ports'],
  ['41ffcf', 'dec r15d'],
  ['75b3', 'jnz round'],
  ['49be157c4a7fb979379e', 'movabs r14, 0x9e3779b97f4a7c15'],
  ['bf00004000', 'mov edi, 0x400000'],
  // fold:
  ['8b07', 'mov eax, [rdi]'],
  ['4d0fafe6', 'imul r12, r14'],
  ['4901c4', 'add r12, rax'],
  ['83c704', 'add edi, 4'],
  ['81ff00005000', 'cmp edi, 0x500000'],
  ['72ec', 'jb fold'],
  ['4d0fafe6', 'imul r12, r14'],
  ['4d01ec', 'add r12, r13'],
  ['ba15000000', 'mov edx, 0x15'],
  ['b92a000000', 'mov ecx, 0x2a'],
  ['4c3b2589000000', 'cmp r12, [rip + expected]'],
  ['0f44d1', 'cmove edx, ecx'],
  ['b045', 'mov al, 0x45'],
  ['e6e9', 'out 0xe9, al'],
  ['89d0', 'mov eax, edx'],
  ['e7f4', 'out 0xf4, eax'],
  // halt:
  ['f4', 'hlt'],
  ['ebfd', 'jmp halt'],
  // step:
  ['69db0d661900', 'imul ebx, ebx, 1664525'],
  ['81c35ff36e3c', 'add ebx, 1013904223'],
  ['89d8', 'mov eax, ebx'],
  ['c1e80c', 'shr eax, 12'],
  ['25fcff0f00', 'and eax, 0xffffc'],
  ['019800004000', 'add [rax + 0x400000], ebx'],
  ['c3', 'ret'],
  // fault:
  ['50', 'push rax'],
  ['51', 'push rcx'],
  ['0f20d0', 'mov rax, cr2'],
  ['89c1', 'mov ecx, eax'],
  ['c1e90c', 'shr ecx, 12'],
  ['81e1ff010000', 'and ecx, 0x1ff'],
  ['2500f0ffff', 'and eax, 0xfffff000'],
  ['83c803', 'or eax, 3'],
  ['488904cd00300100', 'mov [rcx * 8 + 0x13000], rax'],
  ['49ffc5', 'inc r13'],
  ['59', 'pop rcx'],
  ['58', 'pop rax'],
  ['4883c408', 'add rsp, 8'],
  ['48cf', 'iretq'],
  ['0f1f00', 'nop'],
  // gdt:
  ['0000000000000000', '.quad 0'],
  ['ffff0000009bcf00', '.quad 0x00cf9b000000ffff'],
  ['ffff00000093cf00', '.quad 0x00cf93000000ffff'],
  ['ffff0000009baf00', '.quad 0x00af9b000000ffff'],
  // gdtr:
  ['1f00', '.word 31'],
  ['b0010f00', '.long 0xf0000 + gdt'],
  // idtr:
  ['ef00', '.word 0xef'],
  ['0040010000000000', '.quad 0x14000'],
  // expected:
  ['b02dbc5c505a808f', '.quad 0x8f805a505cbc2db0'],
];

/** The 64 KiB BIOS image: the guest at its start, `jmp far F000:0000` at the reset vector 16 bytes before its end. */
export function probeRom(): Buffer {
  const rom = Buffer.alloc(65536);
  Buffer.from(GUEST.map(([bytes]) => bytes).join(''), 'hex').copy(rom);
  Buffer.from('ea000000f0', 'hex').copy(rom, 0xfff0);
  return rom;
}

/** Offset in the ROM of the 64-bit result the guest compares with: its last eight bytes. */
export const PROBE_EXPECTED_OFFSET = GUEST.reduce((sum, [bytes]) => sum + bytes.length / 2, 0) - 8;

const EXIT_RIGHT = (0x2a << 1) | 1;
const EXIT_WRONG = (0x15 << 1) | 1;

/**
 * The CPUs that TCG emulates. x86-64-v2, which every kernel and compiler here runs on: `max` brings AVX, which the guest's
 * C library then uses and which costs more to emulate, about a tenth of a build's CPU seconds, a quarter of a boot's.
 * Armv8.2: `max` has pointer authentication, which doubles the CPU seconds; Cortex-A72 lacks pages of 16 KiB.
 */
const TCG_CPU: Record<Arch, string> = { x86_64: 'Nehalem', aarch64: 'neoverse-n1' };

/**
 * CPU models in the order tried. `host` copies MSRs that some nested hosts then refuse ("failed to set MSR 0x10a"
 * and an abort); without arch-capabilities QEMU starts there.
 */
const CPU_MODELS = { tcg: [TCG_CPU.x86_64], kvm: ['host', 'host,-arch-capabilities'] } as const;

/** TCG needs half a second; a host where it needs more than this is not fit to build kernels' modules. */
const TCG_DEADLINE_MS = 60_000;

export type AccelName = 'kvm' | 'tcg';

export interface AccelReport {
  chosen: AccelName;
  /** One sentence for a person: what was chosen and why. */
  reason: string;
  /** Figures are seconds of guest run time, QEMU's own start not counted. `cpu` is the -cpu model that ran. */
  kvm: { available: boolean; seconds?: number; cpu?: string; error?: string };
  tcg: { seconds?: number; cpu: string; error?: string };
  /** /proc/sys/kernel/random/boot_id of the host's boot the figures belong to. */
  bootId: string;
  /** True when the figures come from an earlier run in this boot. */
  cached: boolean;
}

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

/** Null when the device can be opened for reading and writing, else the reason and the remedy. */
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

export type GuestRun =
  | { outcome: 'right'; seconds: number }
  | { outcome: 'wrong' }
  | { outcome: 'slow'; afterSeconds: number; started: boolean }
  /** QEMU ended by itself without a result; `started` says whether the guest had reached long mode. */
  | { outcome: 'failed'; started: boolean; error: string };

/** Runs the probe guest once. */
export async function runProbeGuest(options: {
  signal: AbortSignal;
  qemu: string;
  accel: AccelName;
  cpu: string;
  deadlineMs: number;
  rom?: Buffer;
}): Promise<GuestRun> {
  // QEMU's working directory too, so that the core file of an abort goes with it.
  const folder = await mkdtemp(join(tmpdir(), 'dkms2bin-probe-'));
  try {
    await writeFile(join(folder, 'probe.bin'), options.rom ?? probeRom());
    const begun = performance.now();
    const child = execa(
      'setpriv',
      [
        ...['--pdeathsig', 'KILL', '--', options.qemu],
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-m', '16', '-no-reboot'],
        ...['-machine', `q35,accel=${options.accel}`, '-cpu', options.cpu, '-bios', 'probe.bin'],
        ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=0x04', '-debugcon', 'stdio'],
      ],
      {
        cwd: folder,
        env: { LC_ALL: 'C' },
        stdin: 'ignore',
        reject: false,
        cancelSignal: options.signal,
        timeout: options.deadlineMs,
        killSignal: 'SIGKILL',
      },
    );
    // The guest's own time runs from 'S' to 'E'. Should both come at once (this process was busy), the whole counts.
    let start: number | null = null;
    let end: number | null = null;
    child.stdout.on('data', (chunk: Buffer) => {
      const text = chunk.toString('latin1');
      if (text.includes('S')) start = text.includes('E') ? begun : performance.now();
      if (text.includes('E')) end = performance.now();
    });
    const result = await child;
    const started = start !== null;
    if (options.signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
    if (result.code === 'ENOENT') throw missingTool('setpriv');
    if (result.exitCode === EXIT_RIGHT && start !== null && end !== null) {
      return { outcome: 'right', seconds: Math.round(end - start) / 1000 };
    }
    if (result.exitCode === EXIT_WRONG) return { outcome: 'wrong' };
    if (result.timedOut) return { outcome: 'slow', started, afterSeconds: options.deadlineMs / 1000 };
    const lines = plain(result.stderr)
      .split('\n')
      .filter((line) => line.trim() !== '' && !line.includes('warning:'));
    const how = `QEMU ended with ${String(result.exitCode ?? result.signal)}`;
    return { outcome: 'failed', started, error: lines[0] === undefined ? how : `${how}: ${lines[0].trim()}` };
  } finally {
    await rm(folder, { recursive: true, force: true });
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
  // The trouble is part of the key: who joins group kvm or loads the module is measured again without a reboot.
  const key = createHash('sha256')
    .update(JSON.stringify([bootId, qemu, binary.size, binary.mtimeMs, device, trouble, CPU_MODELS]))
    .update(rom)
    .digest('hex');
  if (options.force !== true) {
    const known = await readCache(file, key);
    if (known) return { ...known, cached: true };
  }

  const base = { signal: options.signal, qemu, rom };
  const tcgRun = await runProbeGuest({
    ...base,
    accel: 'tcg',
    cpu: TCG_CPU.x86_64,
    deadlineMs: TCG_DEADLINE_MS,
  });
  const tcg: AccelReport['tcg'] =
    tcgRun.outcome === 'right'
      ? { seconds: tcgRun.seconds, cpu: TCG_CPU.x86_64 }
      : { cpu: TCG_CPU.x86_64, error: describe(tcgRun) };

  let kvm: AccelReport['kvm'];
  let durable = tcg.error === undefined;
  if (trouble !== null) kvm = { available: false, error: trouble };
  else {
    const deadlineMs = Math.max(3000 * (tcg.seconds ?? 0), 2000);
    const errors: string[] = [];
    kvm = { available: false };
    for (const cpu of CPU_MODELS.kvm) {
      const kvmRun = await runProbeGuest({ ...base, accel: 'kvm', cpu, deadlineMs });
      if (kvmRun.outcome === 'right') {
        kvm = { available: true, seconds: kvmRun.seconds, cpu };
        break;
      }
      errors.push(`-cpu ${cpu}: ${describe(kvmRun)}`);
      kvm = { available: false, error: errors.join('; ') };
      // Only a QEMU that never ran guest code may fare better with another CPU.
      if (kvmRun.outcome !== 'failed') break;
      // EBUSY of another hypervisor and the like pass: not to be remembered until the next boot.
      if (cpu === CPU_MODELS.kvm.at(-1)) durable = false;
      if (kvmRun.started) {
        durable = false;
        break;
      }
    }
  }

  const report: AccelReport = { ...recordReproducible(kvm, tcg), kvm, tcg, bootId, cached: false };
  if (durable) await writeCache(file, key, report);
  return report;
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
    const why = `KVM runs no ${arch} guest on an ${HOST_ARCH} host`;
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
          hint: 'Leave the accelerator on auto, or force tcg; `dkms2bin doctor` shows both measurements',
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

function recordReproducible(
  kvm: AccelReport['kvm'],
  tcg: AccelReport['tcg'],
): { chosen: AccelName; reason: string } {
  if (tcg.seconds === undefined) {
    if (kvm.seconds === undefined) {
      throw new Dkms2binError(
        'host',
        `QEMU runs no guest on this host. TCG: ${tcg.error ?? 'unknown'}. KVM: ${kvm.error ?? 'unknown'}`,
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

function describe(run: Exclude<GuestRun, { outcome: 'right' }>): string {
  switch (run.outcome) {
    case 'wrong':
      return 'the probe guest computed a wrong result';
    case 'slow':
      return `the probe guest ${run.started ? 'was not done' : 'had not begun'} after ${run.afterSeconds.toFixed(1)} s and was stopped`;
    case 'failed':
      return run.error;
  }
}

/** What tells this host's QEMU from another build of it: a memory snapshot fits the one that made it alone. */
export async function qemuIdentity(arch: Arch): Promise<string> {
  const path = await findQemu(`qemu-system-${arch}`);
  const binary = await stat(path);
  return `${path} ${binary.size} ${binary.mtimeMs}`;
}

/** The binary itself behind the name, links resolved: its size and time stand for its version. */
async function findQemu(name: string): Promise<string> {
  const candidates = name.includes('/')
    ? [name]
    : (standardVariable('PATH') ?? '').split(delimiter).map((folder) => join(folder || '.', name));
  for (const path of candidates) {
    try {
      await access(path, constants.X_OK);
      if ((await stat(path)).isFile()) return await realpath(path);
    } catch {
      // Not there: the next one.
    }
  }
  throw missingTool(name);
}

const CacheFile = z.object({
  key: z.string(),
  report: z.object({
    chosen: z.enum(['kvm', 'tcg']),
    reason: z.string(),
    kvm: z.object({
      available: z.boolean(),
      seconds: z.number().optional(),
      cpu: z.string().optional(),
      error: z.string().optional(),
    }),
    tcg: z.object({ seconds: z.number().optional(), cpu: z.string(), error: z.string().optional() }),
    bootId: z.string(),
    cached: z.boolean(),
  }),
});

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
    // As said.
  }
}
