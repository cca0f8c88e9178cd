import { command } from '../frame.js';

export const board = command({
  name: 'board',
  summary: 'show the queue of `matrix --queue` in a browser',
  description:
    'Serves Bull Board on 127.0.0.1: which cells wait, run, are done or have failed, on which worker. It is for looking: nothing can be changed there. Runs until it is stopped.',
  heading: 'Options:',
  run: async ({ options: { queue, port = 3000 } }, { engine, ui, stdout, signal }) => {
    const ready = (address: string): void => void stdout.write(`${address}\n`);
    await engine.board({ url: queue, port }, { emit: ui.emit, signal, ready });
  },
});
