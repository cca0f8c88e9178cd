// An engine without VMs for the command in a terminal. What a module does is its name: `broken` fails and offers a login to
// DKMS2BIN_TEST_RUN's VM, `locked` asks for a passphrase, `long` and `table` run until they are stopped and then clean up for
// DKMS2BIN_TEST_CLEANUP milliseconds, `table` with a matrix's live view. The login is the real one.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const dist = (file) => import(pathToFileURL(join(process.env.DKMS2BIN_TEST_DIST, file)).href);
const real = (await dist('cli/services.js')).engine;

const target = { release: '6.1.0-56-amd64', distro: 'debian-12', arch: 'x86_64' };
const cellOf = (source) => ({
  ...{ source, kernel: target.release, distro: target.distro, arch: target.arch, target },
  ...{ packageVersion: '6.1.192-2', image: 'auto', fileStyle: 'dkms' },
  module: { kind: 'repo', text: source, name: source },
});
const resultOf = (cell, verdict, reason) => ({
  ...{ module: cell.source, version: '1', kernel: cell.kernel, distro: cell.distro, arch: cell.arch },
  ...{ verdict, reason, package: null, log: null, phases: {}, kept: null, fault: null },
});

async function long({ emit, signal }, cell) {
  for (let line = 0; !signal.aborted; line++) {
    emit({ type: 'output', cell, line: `${'CC [M] '.repeat(30)}${line}` });
    await sleep(50);
  }
  emit({ type: 'note', level: 'warn', message: 'cleaning up' });
  await sleep(Number(process.env.DKMS2BIN_TEST_CLEANUP ?? 0));
}

/** A download and a boot of known length, with a bar for both. */
async function course({ emit }, cell) {
  emit({
    type: 'course',
    there: ['official image of debian-12'],
    ahead: [
      { kind: 'download', key: 'index', what: 'index', seconds: 2, bytes: 2 ** 20 },
      { kind: 'stage', key: 'memory snapshot 6', what: 'memory snapshot 6', seconds: 2 },
      { kind: 'cell', key: cell, what: cell, seconds: 60 },
    ],
    seconds: 64,
  });
  for (let done = 0; done <= 10; done++) {
    emit({ type: 'progress', what: 'index', done, total: 10 });
    await sleep(100);
  }
  emit({ type: 'phase', state: 'start', phase: 'memory snapshot 6' });
  await sleep(2000);
  emit({ type: 'phase', state: 'end', phase: 'memory snapshot 6', seconds: 2 });
  emit({ type: 'cell', cell, verdict: 'failed' });
}

async function broken(context) {
  const { loginToRun } = await dist('engine/runs.js');
  const { listRunDirs } = await dist('cell/run-dir.js');
  const [{ record, dir }] = await listRunDirs();
  const { signal } = context;
  await context.onFailure?.({ id: record.id, login: () => loginToRun(record, dir, { signal }) });
}

export const engine = {
  ...real,
  plan: async (request) => ({ request, cells: request.dkms.map(cellOf) }),
  build: async ({ cells }, context) => {
    const results = await Promise.all(
      cells.map(async (cell) => {
        const label = `${cell.source} ${cell.kernel}`;
        context.emit({ type: 'phase', state: 'start', phase: 'build', cell: label });
        if (cell.source.startsWith('course')) await course(context, label);
        if (cell.source.startsWith('long')) await long(context, label);
        if (cell.source.startsWith('table')) {
          const { source, kernel, distro } = cell;
          context.emit({
            type: 'matrix',
            cells: [{ cell: label, source, kernel, distro, seconds: null, outcomes: [] }],
          });
          context.emit({ type: 'turn', cell: label, worker: 'here' });
          await long(context, label);
        }
        if (cell.source.startsWith('locked')) {
          const { length } = await context.askPassphrase('Passphrase: ');
          context.emit({ type: 'note', level: 'warn', message: `it has ${length} letters` });
        }
        if (cell.source.startsWith('broken')) await broken(context);
        return resultOf(cell, 'failed', 'it is made to fail');
      }),
    );
    return { run: 'r1', accelerator: 'tcg', cells: results };
  },
};
