// The recipe by hand beside the tool: a second module, a new kernel, an empty cache.
import { chmod, copyFile, cp, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { digestOfModules } from './digest.mjs';
import { say, show } from './measure.mjs';
import { BY_HAND, CPUS, MEMORY_MIB, ROOT } from './options.mjs';
import { dist } from './tool.mjs';

/** By hand and by the tool in turns. */
export async function byHand(bench) {
  const { rounds } = bench.options;
  const [{ cacheDir }, { baseImage }, request] = await Promise.all([
    dist('lib/paths.js'),
    dist('environment/base-image.js'),
    bench.request(),
  ]);
  const base = await baseImage(request.row, request.context);
  const caches = [];
  const progress = { onLine: (line) => process.stderr.write(`  ${line}\n`) };
  /** An empty cache, on the disk where the user's own is. */
  const newCache = async () => {
    const dir = await mkdtemp(join(dirname(cacheDir()), 'dkms2bin-bench-'));
    caches.push(dir);
    // As the tool makes its own: in a bootstrap another user, the root of a namespace, works below it.
    await chmod(dir, 0o755);
    return dir;
  };
  const dropCache = () => rm(caches.at(-1), { recursive: true, force: true });
  const tool = async (kind, env) => {
    say(`${kind}:`);
    const sample = await bench.build(BY_HAND, { proof: true, env, ...progress });
    bench.samples[kind].push(sample);
    say(`${kind}: ${show(sample.wall)} s`);
  };
  try {
    for (let round = 1; round <= rounds; round += 1) {
      if (['second-module', 'new-kernel', 'cold'].every((name) => bench.failures[name] ?? !bench.wants(name)))
        break;
      say(`by hand, round ${round} of ${rounds}`);
      const hand = await bench.measure(
        join(ROOT, 'scripts/by-hand.sh'),
        [BY_HAND.source, bench.kernel, base.disk, await mkdtemp(join(bench.scratch, 'hand-'))],
        {
          env: { ACCEL: bench.accelerator.name, CPUS: String(CPUS), MEMORY: String(MEMORY_MIB) },
          onLine: (line) => line.startsWith('by-hand:') && progress.onLine(line),
        },
      );
      if (hand.code !== 0)
        throw new Error(`by-hand.sh ended with ${hand.code}:\n${hand.stderr.slice(-2000)}`);
      const { wall, cpu } = hand;
      bench.samples.hand.push({ wall, cpu, bytes: await digestOfModules(hand.stdout.trim()) });
      say(`by hand: ${show(wall)} s`);
      await bench.attempt(['cold'], async () => {
        await tool('cold', { DKMS2BIN_CACHE: await newCache() }).finally(dropCache);
      });
      await bench.attempt(['new-kernel'], async () => {
        const cache = await newCache();
        if (base.entry) {
          const to = join(cache, 'images', basename(base.entry.dir));
          await mkdir(dirname(to), { recursive: true });
          // Its times are the last that the tool looks at, the copy is as good as the original.
          await cp(base.entry.dir, to, { recursive: true, preserveTimestamps: true });
        }
        await copyFile(join(cacheDir(), 'accelerator.json'), join(cache, 'accelerator.json')).catch(
          () => undefined,
        );
        await tool('new', { DKMS2BIN_CACHE: cache }).finally(dropCache);
      });
      await bench.attempt(['second-module'], async () => {
        await forgetPackage(join(cacheDir(), 'packages'), BY_HAND.source);
        await tool('second', {});
      });
    }
  } finally {
    for (const dir of caches) await rm(dir, { recursive: true, force: true });
    await base.entry?.use.release();
  }
}

/** Removes the downloaded package from the cache. */
async function forgetPackage(dir, name) {
  for (const found of await readdir(dir, { recursive: true }).catch(() => [])) {
    if (basename(found).startsWith(`${name}_`)) await rm(join(dir, found), { force: true });
  }
}
