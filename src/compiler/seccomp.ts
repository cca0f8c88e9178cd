import { HOST_ARCH, type Arch } from '../model/cell.js';

/** Numbers of system calls that no compiler makes, from each architecture's unistd.h. */
const FORBIDDEN: Record<Arch, { audit: number; calls: readonly number[] }> = {
  x86_64: {
    audit: 0xc000003e,
    calls: [
      // shared memory, semaphores and messages; sockets
      29, 30, 31, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 64, 65, 66, 67, 68, 69, 70, 71,
      288, 299, 307,
      // ptrace, syslog, personality, ustat, sysfs, vhangup, modify_ldt, pivot_root, adjtimex, chroot, acct, settimeofday
      101,
      103, 135, 136, 139, 153, 154, 155, 159, 161, 163, 164,
      // mounts, swap, reboot, host names, iopl, ioperm, modules, quotas
      165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 180, 212, 246, 313, 320,
      // clock_settime, move_pages and NUMA policies, mq_*, keys, unshare, vmsplice, perf, fanotify, handles, clock_adjtime, setns
      227,
      237, 238, 239, 240, 241, 242, 243, 244, 245, 248, 249, 250, 256, 272, 278, 279, 298, 300, 301, 303, 304,
      305, 308,
      // other processes' memory, kcmp, bpf, userfaultfd, new mounts, io_uring, pidfds, memfd_secret
      310, 311, 312, 321, 323, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 443, 447, 448,
    ],
  },
  aarch64: {
    audit: 0xc00000b7,
    calls: [
      // mounts, pivot_root, chroot, acct, quotas, swap, reboot, host names, modules
      39, 40, 41, 51, 60, 89, 104, 105, 106, 142, 161, 162, 224, 225, 273, 294,
      // unshare, setns, ptrace, syslog, personality, times, keys, perf, fanotify, handles
      97, 112, 116, 117, 92, 170, 171, 217, 218, 219, 241, 262, 263, 264, 265, 266, 268,
      // messages, semaphores, shared memory; sockets
      180, 181, 182, 183, 184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198, 199, 200,
      201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 242, 243, 269,
      // NUMA, other processes' memory, kcmp, bpf, userfaultfd, vmsplice, new mounts, io_uring, pidfds, memfd_secret
      75,
      235, 236, 237, 238, 239, 270, 271, 272, 280, 282, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438,
      440, 442, 443, 447, 448,
    ],
  },
};

const LOAD = 0x20; // BPF_LD | BPF_W | BPF_ABS
const EQUAL = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const ANY = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN = 0x06;
const ALLOW = 0x7fff0000;
const KILL = 0x80000000;
const NOT_PERMITTED = 0x00050001; // SECCOMP_RET_ERRNO with EPERM
const NO_SUCH_CALL = 0x00050026; // with ENOSYS: the C library then takes the older call
const [NUMBER, ARCH, FIRST_ARGUMENT] = [0, 4, 16];
/** All CLONE_NEW… flags. */
const NEW_NAMESPACES = 0x7e020080;
const CLONE: Record<Arch, number> = { x86_64: 56, aarch64: 220 };
const CLONE3 = 435;

/** A seccomp program, as bubblewrap takes it, for a compiler: without what it never asks for and an attacker would. */
export function seccompProgram(arch: Arch = HOST_ARCH): Buffer {
  const { audit, calls } = FORBIDDEN[arch];
  const program: [code: number, whenTrue: number, whenFalse: number, value: number][] = [
    [LOAD, 0, 0, ARCH],
    [EQUAL, 1, 0, audit],
    [RETURN, 0, 0, KILL],
    [LOAD, 0, 0, NUMBER],
    // x32's calls have numbers of their own.
    ...(arch === 'x86_64'
      ? (
          [
            [AT_LEAST, 0, 1, 0x40000000],
            [RETURN, 0, 0, KILL],
          ] as const
        ).map((each) => [...each] as [number, number, number, number])
      : []),
    [EQUAL, 0, 1, CLONE3],
    [RETURN, 0, 0, NO_SUCH_CALL],
    ...calls.flatMap((call): [number, number, number, number][] => [
      [EQUAL, 0, 1, call],
      [RETURN, 0, 0, NOT_PERMITTED],
    ]),
    [EQUAL, 0, 3, CLONE[arch]],
    [LOAD, 0, 0, FIRST_ARGUMENT],
    [ANY, 0, 1, NEW_NAMESPACES],
    [RETURN, 0, 0, NOT_PERMITTED],
    [RETURN, 0, 0, ALLOW],
  ];
  const bytes = Buffer.alloc(8 * program.length);
  for (const [at, [code, whenTrue, whenFalse, value]] of program.entries()) {
    bytes.writeUInt16LE(code, 8 * at);
    bytes.writeUInt8(whenTrue, 8 * at + 2);
    bytes.writeUInt8(whenFalse, 8 * at + 3);
    bytes.writeUInt32LE(value, 8 * at + 4);
  }
  return bytes;
}
