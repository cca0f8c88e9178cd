import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Terminal } from './terminal.js';

test('the first lines, and one bar for the whole that only grows and is gone at the end', async () => {
  await using terminal = await Terminal.open(['--dkms', 'course'], { standIn: true });
  expect(await terminal.ended()).toBe(1);
  expect(terminal.text).toMatch(/there already: official image of debian-12\r?\n/);
  expect(terminal.text).toContain(
    'to do: index (1.0 MiB to download); memory snapshot 6; 1 cell; about 65 s in all',
  );
  const percents = [...terminal.text.matchAll(/[█░]{8,} (\d+)%, about/g)].map(([, percent]) =>
    Number(percent),
  );
  expect(percents).toEqual(percents.toSorted((a, b) => a - b));
  // Within the download, and within the snapshot, of which nothing is heard.
  expect(new Set(percents).size).toBeGreaterThan(4);
  expect(percents.at(-1)).toBeLessThan(100);
  expect(terminal.screen.join('\n')).not.toMatch(/[█░]/);
});

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
