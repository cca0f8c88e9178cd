// The benchmark: npm run bench. `--help` says what is measured and how.
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { availableParallelism, cpus as processors, loadavg, release as hostRelease } from 'node:os';
import { promisify } from 'node:util';
import { Bench } from './benchmark/bench.mjs';
import { figuresOf, tableOf } from './benchmark/figures.mjs';
import { say } from './benchmark/measure.mjs';
import { BY_HAND, readArgs, USAGE } from './benchmark/options.mjs';

async function main() {
  let options;
  try {
    options = readArgs();
  } catch (error) {
    process.stderr.write(`bench: ${error.message}\nnpm run bench -- --help explains.\n`);
    return 2;
  }
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const abort = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => abort.abort());
  const load = { start: loadavg()[0] };
  if (load.start > availableParallelism() / 4)
    say(`this host is busy (load average ${load.start.toFixed(1)}): the figures will be worse than they are`);
  const bench = new Bench(options, abort.signal);
  try {
    await bench.run();
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    await bench.close();
  }
  load.end = loadavg()[0];

  const figures = figuresOf(bench);
  const missing = missingOf(bench, figures);
  const host = await hostOf(bench);
  process.stdout.write(reportOf(bench, { figures, missing, host, load }));
  if (options.json) {
    const { rounds, image } = options;
    const { kernel, samples } = bench;
    const document = { schemaVersion: 1, date: new Date().toISOString(), host, kernel, rounds, image, load };
    await writeFile(options.json, JSON.stringify({ ...document, figures, missing, samples }, null, 2) + '\n');
  }
  if (abort.signal.aborted) return 130;
  const failed = Object.keys(bench.failures).length > 0;
  return failed || figures.some((f) => f.name === 'same-bytes' && !f.met) ? 1 : 0;
}

/** Figures that were asked for and have no values, and why. */
function missingOf({ options, failures, signal }, figures) {
  const missing = options.asked.flatMap((name) => {
    if (failures[name]) return [{ name, why: `failed: ${failures[name].split('\n')[0]}` }];
    if (!options.wanted.has(name)) return [{ name, why: 'skipped (--quick): it takes minutes' }];
    const measured = figures.some((f) => f.figure === name);
    return signal.aborted && !measured ? [{ name, why: 'interrupted' }] : [];
  });
  if (options.quick && options.wanted.has('overhead'))
    missing.push({ name: `overhead-${BY_HAND.name}`, why: 'skipped (--quick): it takes minutes' });
  return missing;
}

async function hostOf({ accelerator }) {
  return {
    processor: processors()[0]?.model ?? '?',
    processors: availableParallelism(),
    kernel: hostRelease(),
    node: process.version,
    qemu: await promisify(execFile)('qemu-system-x86_64', ['--version']).then(
      ({ stdout }) => stdout.split('\n')[0],
      () => null,
    ),
    accelerator: accelerator?.name ?? null,
  };
}

function reportOf({ kernel, options }, { figures, missing, host, load }) {
  return [
    `${host.processors} × ${host.processor}, ${host.qemu ?? 'no QEMU'}, ${host.accelerator ?? 'no VM was started'}`,
    `kernel ${kernel ?? '-'}, ${options.rounds} round(s), load average ${load.start.toFixed(2)} before, ${load.end.toFixed(2)} after`,
    '',
    tableOf(figures, missing),
    '',
  ].join('\n');
}

process.exitCode = await main();
