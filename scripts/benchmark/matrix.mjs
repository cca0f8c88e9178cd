// A whole matrix, on this machine and through workers.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { say, show } from './measure.mjs';
import { CPUS, DISTRO, MAIN, MATRIX, MEMORY_MIB, SIDE_BY_SIDE } from './options.mjs';

/** One matrix, whole; `how` names it in the samples, `more` says who builds it. Throws unless every cell has its answer. */
export async function matrix(bench, how, more) {
  const { modules, kernels } = bench.options.matrix;
  const releases = bench.plainKernels.slice(-kernels);
  await bench.makeWarm(releases);
  const out = await mkdtemp(join(bench.scratch, 'matrix-'));
  const { code, wall, cpu, stdout, stderr } = await bench.measure(
    process.execPath,
    [
      ...[MAIN, 'matrix', '--json', '--out-dir', out, '--jobs', String(SIDE_BY_SIDE), ...bench.shape()],
      ...MATRIX.slice(0, modules).flatMap((module) => ['--dkms', module]),
      ...releases.flatMap((release) => ['--kernel', release]),
      ...more,
    ],
    { onLine: (line) => process.stderr.write(`  ${line}\n`) },
  );
  const { cells = [] } = stdout === '' ? {} : JSON.parse(stdout);
  const verdicts = cells.map((c) => `${c.source} ${c.kernel} ${c.outcome}`).sort();
  const unanswered = cells.filter((c) => c.verdict === null || c.verdict === 'error');
  if (cells.length < modules * kernels || unanswered.length > 0)
    throw new Error(
      `${unanswered.length} of ${cells.length} cells have no answer (${code}): ${unanswered[0]?.reason ?? stderr.slice(-2000)}`,
    );
  // Modules of one source share their cell's times.
  const builds = new Map(cells.map((c) => [`${c.source} ${c.kernel}`, c.phases.build ?? 0]));
  const building = [...builds.values()].reduce((sum, each) => sum + each, 0);
  const ratio = wall / (building / SIDE_BY_SIDE);
  bench.samples.matrix.push({
    how,
    wall,
    cpu,
    building,
    vms: SIDE_BY_SIDE,
    ratio,
    cells: builds.size,
    verdicts,
    phases: cells.map((c) => ({ source: c.source, kernel: c.kernel, ...c.phases })),
  });
  say(
    `matrix, ${how}: ${builds.size} cells in ${show(wall)} s, the guests built for ${show(building)} s in all, ` +
      `${SIDE_BY_SIDE} VMs side by side: ratio ${show(ratio)}`,
  );
}

/** The same matrix by workers with one VM each, as they are started by hand, and a Redis of its own. */
export async function throughWorkers(bench) {
  const dir = await mkdtemp(join(bench.scratch, 'workers-'));
  const store = join(dir, 'store');
  const queue = ['--queue', `unix:${join(dir, 'redis.sock')}`, '--store', store];
  const children = [];
  const start = (file, args, env = {}) => {
    const child = spawn(file, args, {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    children.push({ child, ended: once(child, 'exit').catch((error) => say(`${file}: ${error.message}`)) });
  };
  try {
    start('redis-server', [
      '--port',
      '0',
      '--unixsocket',
      join(dir, 'redis.sock'),
      '--dir',
      dir,
      '--save',
      '',
    ]);
    const shape = ['--cpus', String(CPUS), '--memory', `${MEMORY_MIB}M`, '--distro', DISTRO, '--jobs', '1'];
    for (let at = 1; at <= SIDE_BY_SIDE; at += 1)
      start(process.execPath, [MAIN, 'worker', ...queue, '--name', `worker-${at}`, '--quiet', ...shape], {
        DKMS2BIN_STATE: join(dir, `state-${at}`),
      });
    await matrix(bench, 'workers', [...queue, '--queue-wait', '1m']);
  } finally {
    for (const { child, ended } of children.reverse()) {
      child.kill('SIGTERM');
      await ended;
    }
  }
}
