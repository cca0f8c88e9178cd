import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { ConsoleWatch } from '../../../src/vm/console.js';

/** A console that writes what it is told to. */
function consoleOf(): {
  write: (text: string) => void;
  listeners: Set<(bytes: Buffer) => void>;
  watch: Subscribe;
} {
  const listeners = new Set<(bytes: Buffer) => void>();
  return {
    listeners,
    write: (text) => listeners.forEach((each) => each(Buffer.from(text))),
    watch: (onBytes) => {
      listeners.add(onBytes);
      return () => void listeners.delete(onBytes);
    },
  };
}
type Subscribe = (onBytes: (bytes: Buffer) => void) => () => void;

test('each line once and whole, without what a terminal would obey', () => {
  const [from, lines] = [consoleOf(), [] as string[]];
  {
    using _watch = new ConsoleWatch(from.watch, (line) => lines.push(line));
    from.write('SeaBIOS\r\n[    0.0] Linux ver');
    expect(lines).toEqual(['SeaBIOS']);
    from.write('sion\n\x1b[32m  OK  \x1b[0m Started ssh.\n\n');
    expect(lines).toEqual(['SeaBIOS', '[    0.0] Linux version', 'OK   Started ssh.']);
  }
  expect(from.listeners.size).toBe(0);
});

test('seconds that systemd counts of a job without a limit are no sign of life', async () => {
  const from = consoleOf();
  using watch = new ConsoleWatch(from.watch);
  using silent = watch.silent(300, () => new Error('silent'));
  const counting = setInterval(
    () => from.write('[ *** ] A start job is running for x (9s / no limit)\r'),
    50,
  );
  await expect(silent)
    .rejects.toThrow('silent')
    .finally(() => clearInterval(counting));
});

test('a guest that goes on writing is not silent, however long it takes; one that stops is', async () => {
  const from = consoleOf();
  using watch = new ConsoleWatch(from.watch);
  using silent = watch.silent(400, () => new Error('silent'));
  let over = false;
  silent.catch(() => (over = true));
  for (let at = 0; at < 10; at += 1) {
    from.write(`${at}\n`);
    await sleep(100);
  }
  expect(over).toBe(false);
  await expect(silent).rejects.toThrow('silent');
});
