import { command } from '../frame.js';

export const board = command({
  name: 'board',
  summary: 'show the queue of `matrix --queue` in a browser',
  description:
    'Serves Bull Board on 127.0.0.1: which cells are waiting, running, done or failed, and on which worker. It is read-only. Runs until it is stopped.',
  heading: 'Options:',
  run: async ({ options: { queue, port = 3000 } }, { engine, ui, stdout, signal }) => {
    const ready = (address: string): void => void stdout.write(`${address}\n`);
    await engine.board({ url: queue, port }, { emit: ui.emit, signal, ready });
  },
});
