// Clones of a memory snapshot, without the rest of a build.
import { mkdtemp, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { processSeconds } from './measure.mjs';
import { CLONE_RUNS, CPUS, IDLE_CLONES, MEMORY_MIB } from './options.mjs';
import { dist } from './tool.mjs';

/** QEMU itself, below the processes that confine it. */
async function qemuBelow(pid) {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  const [child] = children.split(' ').filter(Boolean);
  return child === undefined ? pid : qemuBelow(child);
}

/** Clones of the warm snapshot, without the rest of a build. */
export async function clones(bench) {
  const [{ baseImage }, { kernelLayer }, { kernelEnvironmentOf }, { bootClone }, request] = await Promise.all(
    [
      dist('environment/base-image.js'),
      dist('environment/kernel-layer.js'),
      dist('environment/snapshot.js'),
      dist('environment/boot.js'),
      bench.request(),
    ],
  );
  const { emit } = request.context;
  const { name: accel, cpu } = bench.accelerator;
  const machine = {
    arch: 'x86_64',
    accel,
    cpu,
    cpus: CPUS,
    memoryMiB: MEMORY_MIB,
    emit,
    signal: bench.signal,
  };
  const base = await baseImage(request.row, request.context);
  const layer = await kernelLayer(
    {
      base,
      target: request.target,
      variant: 'build',
      kernelPackages: [],
      buildPackages: { names: [], files: [] },
    },
    machine,
  );
  const { snapshot } = await kernelEnvironmentOf(layer, machine);
  const boot = async () => {
    const dir = await mkdtemp(join(bench.scratch, 'clone-'));
    const called = performance.now();
    const booted = await bootClone(snapshot, 'none', dir, machine);
    const answer = await booted.guest.text('uname -r');
    const whole = (performance.now() - called) / 1000;
    const qemu = await processSeconds(await qemuBelow(booted.vm.pid));
    if (answer.trim() !== bench.kernel) throw new Error(`the clone answered ${answer}`);
    return { booted, sample: { ...qemu, whole } };
  };
  try {
    if (!snapshot) throw new Error('memory snapshots do not work on this host: see dkms2bin doctor');
    if (bench.wants('first-command'))
      for (let at = 0; at < CLONE_RUNS * bench.options.rounds; at += 1) {
        const { booted, sample } = await boot();
        await booted[Symbol.asyncDispose]();
        bench.samples.boots.push(sample);
      }
    const idle = [];
    try {
      for (let at = 0; bench.wants('clone-memory') && at < IDLE_CLONES; at += 1)
        idle.push((await boot()).booted);
      if (idle.length > 0) await sleep(5000, undefined, { signal: bench.signal });
      for (const { vm } of idle) {
        const rollup = await readFile(`/proc/${await qemuBelow(vm.pid)}/smaps_rollup`, 'utf8');
        const kib = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(rollup)[1]);
        bench.samples.clones.push({
          privateDirtyMiB: kib('Private_Dirty') / 1024,
          rssMiB: kib('Rss') / 1024,
        });
      }
    } finally {
      for (const booted of idle) await booted[Symbol.asyncDispose]();
    }
  } finally {
    for (const entry of [snapshot?.entry, layer.entry, base.entry]) await entry?.use.release();
  }
}
