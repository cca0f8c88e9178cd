import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Terminal } from './terminal.js';

describe.each([
  ['live lines', 'long'],
  ["a matrix's table", 'table'],
])('%s', (_, module) => {
  const start = (options = {}): Promise<Terminal> =>
    Terminal.open(['--dkms', module], { standIn: true, ...options });
  /** Until it is drawn anew. */
  const drawn = (terminal: Terminal) => terminal.wait(/\x1b\[\d+A\r\x1b\[J[^\x1b]+\n$/);

  test('Ctrl-C once: it says so and cleans up', async () => {
    await using terminal = await start({ env: { DKMS2BIN_TEST_CLEANUP: '1500' } });
    await drawn(terminal);
    terminal.type('\x03');
    await terminal.wait(/stopping… \(Ctrl-C once more to leave at once\)/);
    await terminal.wait(/cleaning up/);
    // Redrawn since, and the words are still there, once; nothing of the lines is left above them.
    await sleep(1200);
    const seen = terminal.screen.filter((line) => line !== '');
    expect(seen[0]).toMatch(/^\[ .*\] stopping…|matrix of/);
    expect(seen.filter((line) => line.includes('stopping…'))).toHaveLength(1);
    expect(seen.filter((line) => line.includes('cleaning up'))).toHaveLength(1);
    expect(await terminal.ended()).toBe(130);
    expect(await terminal.restored()).toBe(true);
  });

  test('Ctrl-C twice: at once', async () => {
    await using terminal = await start({ env: { DKMS2BIN_TEST_CLEANUP: '600000' } });
    await drawn(terminal);
    terminal.type('\x03');
    await terminal.wait(/cleaning up/);
    terminal.type('\x03');
    expect(await terminal.ended()).toBe(130);
    expect(await terminal.restored()).toBe(true);
  });

  test('a closed terminal: it cleans up', async () => {
    await using terminal = await start({ bare: true, env: { DKMS2BIN_TEST_CLEANUP: '500' } });
    await drawn(terminal);
    terminal.hangUp();
    expect(await terminal.ended()).toBe(130);
  });

  test('a narrower window: drawn anew, nothing wider than it', async () => {
    await using terminal = await start();
    await drawn(terminal);
    terminal.resize(50, 30);
    await sleep(500);
    const before = terminal.text.length;
    await drawn(terminal);
    await sleep(500);
    const lines = terminal.text
      .slice(before)
      .replaceAll(/\x1b\[\d*[AJ]/g, '')
      .split(/[\r\n]+/);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(50);
    terminal.type('\x03');
    expect(await terminal.ended()).toBe(130);
  });
});
