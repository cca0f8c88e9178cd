import { requestOf } from '../../options/request.js';
import { command } from '../frame.js';
import { buildContext } from './build.js';

export const worker = command({
  name: 'worker',
  summary: 'build what `matrix --queue` hands out, on this machine',
  description:
    'Takes cells of matrices from a queue, builds them as build does, and delivers packages and logs to the store that all machines share. Runs until it is stopped (Ctrl-C, SIGTERM); then its VMs end, and their cells go back to the queue for other workers.',
  heading: 'What to work on:',
  usage: '--queue <url> --store <where> [options]',
  examples: ['dkms2bin worker --queue redis://queue.example --store /srv/dkms2bin --jobs 4'],
  run: async ({ options: { queue, store, name, distros, ...options } }, context) => {
    const request = requestOf(options, context.cwd);
    await context.engine.work(
      request,
      { url: queue, store, distros, ...(name !== undefined && { name }) },
      buildContext(request, { json: false }, context),
    );
  },
});
