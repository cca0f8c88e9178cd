import './killed.js';
import { appendFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Dkms2binError } from '../../../src/model/errors.js';
import { run } from '../../../src/lib/exec.js';
import type { CellBuilder } from '../../../src/engine/queue/task.js';
import { runWorker } from '../../../src/engine/queue/worker.js';
import type { WorkerInfo } from '../../../src/engine/queue/protocol.js';
import type { Timing } from '../../../src/engine/queue/timing.js';

/** A real worker whose building is a stand-in: a child process that makes a file after a while. VMs would take minutes. */
export interface WorkerSetting {
  url: string;
  store: string;
  name: string;
  can: Pick<WorkerInfo, 'distros' | 'arches' | 'accelerator' | 'signer' | 'vms'>;
  timing: Partial<Timing>;
  /** What happens is appended here: `begin|made|stopped WORKER CELL`. */
  trace: string;
  /** Seconds that the child takes. */
  seconds: number;
}

const setting = JSON.parse(process.env.SETTING!) as WorkerSetting;
const { trace, seconds, name } = setting;
const note = (what: string, cell: string): void => appendFileSync(trace, `${what} ${name} ${cell}\n`);

const build: CellBuilder = async ({ label, job, source, outDir }, { emit, signal }) => {
  const { kernel, need } = job;
  const { release } = kernel;
  note('begin', label);
  emit({ type: 'phase', state: 'start', phase: 'dkms', cell: label });
  emit({ type: 'output', cell: label, line: `compiling on ${name}` });
  const file = `${source.text}_1-${release}_${need.arch}`;
  try {
    if (source.text.includes('flaky') && !(await firstTime(join(trace, '..', `flaky-${release}`)))) {
      throw new Dkms2binError('transient', 'the mirror is away');
    }
    const child = 'sleep "$0"; printf "%s" "$1" >"$2"; printf log >"$3"';
    await run(
      'sh',
      [
        '-c',
        child,
        String(seconds),
        `package of ${label}`,
        join(outDir, `${file}.deb`),
        join(outDir, `${file}.log`),
      ],
      {
        cancelSignal: signal,
        dieWithParent: true,
      },
    );
  } catch (error) {
    note('stopped', label);
    throw error;
  }
  note('made', label);
  const bad = source.text.includes('broken');
  const result = {
    ...{ module: source.text, version: '1', kernel: release, distro: need.distro, arch: need.arch },
    ...{ phases: { dkms: seconds }, kept: null, log: join(outDir, `${file}.log`) },
  };
  if (bad) await run('rm', [join(outDir, `${file}.deb`)]);
  return {
    results: [
      bad
        ? { ...result, verdict: 'failed', reason: 'does not compile', package: null, fault: 'module' }
        : { ...result, verdict: 'built', reason: null, package: join(outDir, `${file}.deb`), fault: null },
    ],
    accelerator: need.accelerator ?? 'tcg',
    seconds,
  };
};

/** False the first time. */
async function firstTime(mark: string): Promise<boolean> {
  return writeFile(mark, '', { flag: 'wx' }).then(
    () => false,
    () => true,
  );
}

const controller = new AbortController();
process.once('SIGTERM', () => controller.abort());
console.log('takes signals');
await runWorker({
  ...setting,
  build,
  signal: controller.signal,
  emit: (event) => {
    if (event.type === 'note') console.log(JSON.stringify(event));
  },
});
