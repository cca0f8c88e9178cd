// The modules' build on this host, outside of any VM.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { digestOfFolder } from './digest.mjs';
import { say } from './measure.mjs';
import { EPOCH, JOBS, ROOT } from './options.mjs';
import { dist } from './tool.mjs';

/** A chroot to build in, and its end. */
export async function nativeChroot(bench) {
  const [{ run }, { baseImage }, request] = await Promise.all([
    dist('lib/exec.js'),
    dist('environment/base-image.js'),
    bench.request('bootstrap'),
  ]);
  const base = await baseImage(request.row, request.context);
  const scratch = await mkdtemp(join(bench.scratch, 'native-'));
  const namespace = ['--mount', '--pid', '--fork', '--kill-child'];
  if (process.getuid() !== 0) namespace.push('--user', '--map-root-user', '--map-auto');
  await run('unshare', [...namespace, 'true'], { cancelSignal: bench.signal });
  say('native: a chroot with the headers');
  const child = spawn(
    'setpriv',
    [
      ...[
        '--pdeathsig',
        'KILL',
        '--',
        'unshare',
        ...namespace,
        'bash',
        join(ROOT, 'scripts/benchmark/native.sh'),
      ],
      ...[scratch, base.root.tar, bench.kernel, String(JOBS), EPOCH, ...bench.modules.map((m) => m.source)],
    ],
    {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
    },
  );
  const ended = once(child, 'exit');
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (said = (said + text).slice(-2000)));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`the native build failed:\n${said}`);
    return value.split(' ');
  };
  const close = async () => {
    child.stdin.end();
    await ended;
    await base.entry?.use.release();
  };
  child.stdin.on('error', () => undefined);
  bench.signal.addEventListener('abort', () => child.kill('SIGKILL'), { once: true });
  try {
    await answer();
  } catch (error) {
    await close();
    throw error;
  }
  return {
    close,
    build: async (module) => {
      child.stdin.write(`${module.source}\n`);
      const [, , wall, user, system, name] = await answer();
      const bytes = await digestOfFolder(join(scratch, 'built', name));
      bench.samples.native.push({
        module: module.name,
        ...{ wall: Number(wall), cpu: Number(user) + Number(system), bytes },
      });
      say(`${module.name}, native: ${wall} s`);
    },
  };
}
