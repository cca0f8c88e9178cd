import { EXIT, EXIT_CODE } from '../../model/errors.js';
import { oneLine } from '../../lib/text.js';
import { SCHEMA_VERSION } from '../../report/json.js';
import { table } from '../../report/text.js';
import { command } from '../frame.js';

const LABEL = { ok: 'ok', warn: 'warning', missing: 'MISSING' };

export const doctor = command({
  name: 'doctor',
  summary: 'check this machine',
  description: 'Checks this machine: tools, QEMU, measured speed of KVM and TCG, free space, folders.',
  notes: 'Exit code: 0 all that is needed is there, 4 something is missing.',
  run: async ({ options: { arch = 'x86_64', json } }, context) => {
    const { collectChecks } = await import('../checks.js');
    const checks = await collectChecks(context, arch);
    const ok = checks.every(({ status }) => status !== 'missing');
    const rows = checks.map(({ name, status, detail }) => [name, LABEL[status], detail]);
    context.answer(
      () => ({ schemaVersion: SCHEMA_VERSION, ok, checks }),
      () => table([['CHECK', 'STATUS', 'DETAIL'], ...rows]),
    );
    if (!json)
      for (const { name, remedy } of checks)
        if (remedy !== null) context.stderr.write(`${name}: ${oneLine(remedy)}\n`);
    return ok ? EXIT.ok : EXIT_CODE.host;
  },
});
