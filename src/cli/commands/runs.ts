import { formatAge, formatBytes } from '../../lib/units.js';
import { SCHEMA_VERSION } from '../../report/json.js';
import { table } from '../../report/text.js';
import { command } from '../frame.js';

export const runs = command({
  name: 'runs',
  summary: 'list the kept VMs',
  description: 'Lists the VMs that are kept (or still running), with their size and age.',
  run: async ({ options: { json } }, { engine, stderr, answer }) => {
    const all = await engine.listRuns();
    if (all.length === 0 && !json)
      stderr.write('No VM is kept. Build with --debug or --keep-failed to keep one.\n');
    const rows = all.map((r) => [
      ...[r.id, r.state, r.cell, r.kernel, r.distro],
      ...[formatAge(r.created), formatBytes(r.bytes)],
    ]);
    const head = ['RUN', 'STATE', 'MODULE', 'KERNEL', 'DISTRO', 'AGE', 'SIZE'];
    answer(
      () => ({ schemaVersion: SCHEMA_VERSION, runs: all }),
      () => (rows.length === 0 ? '' : table([head, ...rows])),
    );
  },
});
