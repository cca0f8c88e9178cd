// What each layer of confinement costs: programs with it and without it, in turns.
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { say, show } from './measure.mjs';
import { MODULES, STARTS } from './options.mjs';
import { dist } from './tool.mjs';

/** Starts of programs that do nothing: no VM boots. */
export async function starts(bench) {
  const [{ confined, nativeSandbox, vmSandbox }, { CONFINEMENT }] = await Promise.all([
    dist('lib/sandbox.js'),
    dist('vm/args.js'),
  ]);
  const scratch = await mkdtemp(join(tmpdir(), 'dkms2bin-bench-'));
  try {
    await chmod(scratch, 0o755);
    const none = { readable: [], writable: [], network: false };
    // A machine without anything, which ends when it is told to.
    const qemu = (before, filter) => [
      ...['sh', '-c', 'echo quit | "$@"', 'sh', ...before, 'qemu-system-x86_64', ...filter],
      ...['-machine', 'none', '-nodefaults', '-display', 'none', '-S', '-monitor', 'stdio'],
    ];
    const vm = (await vmSandbox(none)).command;
    const scripts = await nativeSandbox({ ...none, arch: 'x86_64', scratch }, bench.signal);
    const pairs = {
      'qemu-namespaces': [qemu([], CONFINEMENT), qemu(vm, CONFINEMENT)],
      'qemu-seccomp': [qemu([], []), qemu([], CONFINEMENT)],
      'package-scripts': [['true'], [...scripts.command, 'true']],
      'reading-tools': [['true'], [...(await confined(none)), 'true']],
    };
    for (const [name, sides] of Object.entries(pairs))
      for (let at = 0; at < STARTS; at += 1)
        for (const [side, [file, ...args]] of sides.entries()) {
          // Several at once: the kernel counts CPU seconds in hundredths.
          const loop = 'for n in 1 2 3 4 5 6 7 8 9 10; do "$@" >/dev/null </dev/null || exit; done';
          const { code, wall, cpu, stderr } = await bench.measure('sh', ['-c', loop, 'sh', file, ...args]);
          if (code !== 0) throw new Error(`${file} ended with ${code}: ${stderr.slice(-500)}`);
          bench.samples.starts.push({ name, confined: side === 1, wall: wall / 10, cpu: cpu / 10 });
        }
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** Warm runs with proof where QEMU has namespaces of its own, and where it can have none: an ordinary user's then does without. */
export async function runs(bench) {
  if (process.getuid() === 0)
    throw new Error("root's QEMU does not start unconfined: run it as an ordinary user");
  const [tiny] = MODULES.filter(({ name }) => name === 'tiny');
  const without = join(bench.scratch, 'without');
  await mkdir(without);
  await writeFile(join(without, 'bwrap'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
  for (let round = 0; round < bench.options.rounds; round += 1)
    for (const confined of [false, true]) {
      const env = confined ? {} : { PATH: `${without}:${process.env.PATH}` };
      // Where nothing can be confined the host does not compile either: that is no cost of confinement.
      const sample = await bench.build(tiny, { proof: true, env, more: ['--compile', 'guest'] });
      if (sample.cold) throw new Error('the VM was not a clone of a memory snapshot: see dkms2bin doctor');
      bench.samples.confined.push({ ...sample, confined });
      say(
        `tiny, QEMU ${confined ? 'confined' : 'unconfined'}: ${show(sample.wall)} s, CPU ${show(sample.cpu)} s`,
      );
    }
}
