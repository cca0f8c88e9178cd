import { Option, type Command } from 'commander';
import { createUi } from '../../ui/index.js';
import type { CliContext } from '../context.js';
import * as value from '../../options/values.js';
import { queueOption } from './worker.js';

export function addBoard(program: Command, context: CliContext): void {
  program
    .command('board')
    .summary('show the queue of `matrix --queue` in a browser')
    .description(
      'Serves Bull Board on 127.0.0.1: which cells wait, run, are done or have failed, on which worker. It is for looking: nothing can be changed there. Runs until it is stopped.',
    )
    .addOption(queueOption().makeOptionMandatory())
    .addOption(new Option('--port <n>', 'port to serve on (default: 3000)').argParser(value.port('--port')))
    .action(async ({ queue, port }: { queue: string; port?: number }) => {
      const { engine, stdout, stderr, env, signal } = context;
      const ui = createUi(stderr, { level: 'normal' }, env);
      try {
        await engine.board(
          { url: queue, port: port ?? 3000 },
          { emit: ui.emit, signal, ready: (address) => void stdout.write(`${address}\n`) },
        );
      } finally {
        ui.close();
      }
    });
}
