import { oneLine } from '../../lib/text.js';
import { command } from '../frame.js';

export const rm = command({
  name: 'rm',
  summary: 'remove kept VMs',
  description: 'Removes kept VMs: disk, logs and all.',
  arguments: [
    { name: '<run...>', help: 'names of kept VMs, as `dkms2bin runs` lists them', completes: 'runs' },
  ],
  run: async ({ words }, { engine, stderr }) => {
    const errors: unknown[] = [];
    for (const id of new Set(words)) {
      try {
        await engine.removeRun(id);
        stderr.write(`removed ${oneLine(id)}\n`);
      } catch (error) {
        errors.push(error);
      }
    }
    // The others are removed all the same; the caller prints each error and takes the first one's exit code.
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new AggregateError(errors);
  },
});
