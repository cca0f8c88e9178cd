import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Terminal } from './terminal.js';

const SECRET = 'correct horse';
const keygen = (options = {}): Promise<Terminal> =>
  Terminal.open(['keygen', '--encrypt', '--out-dir', '.'], {
    env: { DKMS2BIN_SIGN_PASSPHRASE: '' },
    ...options,
  });
const FIRST = /Passphrase of the new key: $/;
const SECOND = /The same passphrase again: $/;

describe("keygen's passphrase", () => {
  test('is asked for twice and never shown', async () => {
    await using terminal = await keygen();
    await terminal.wait(FIRST);
    terminal.type('wrong\x15correct horsf\x7fe\r');
    await terminal.wait(SECOND);
    terminal.type(`${SECRET}\r`);
    expect(await terminal.ended(), terminal.text).toBe(0);
    expect(terminal.text).not.toMatch(/wrong|corr|hors/);
    expect(await readFile(join(terminal.dir, 'mok.key'), 'utf8')).toContain('ENCRYPTED');
    expect(await terminal.restored()).toBe(true);
  });

  test('typed ahead it is not lost', async () => {
    await using terminal = await keygen();
    await terminal.wait(FIRST);
    terminal.type(`${SECRET}\r${SECRET}\r`);
    expect(await terminal.ended(), terminal.text).toBe(0);
    expect(terminal.text).not.toMatch(/corr|hors/);
  });

  test.each([
    ['Ctrl-C', '\x03'],
    ['Ctrl-D', '\x04'],
  ])('%s ends it, at either question', async (_, key) => {
    for (const question of [FIRST, SECOND]) {
      await using terminal = await keygen();
      await terminal.wait(FIRST);
      if (question === SECOND) {
        terminal.type(`${SECRET}\r`);
        await terminal.wait(SECOND);
      }
      terminal.type(`corr${key}`);
      expect(await terminal.ended()).toBe(130);
      expect(terminal.text).not.toMatch(/corr|hors/);
      expect((await readdir(terminal.dir)).filter((name) => name.startsWith('mok'))).toEqual([]);
      expect(await terminal.restored()).toBe(true);
    }
  });

  test('SIGTERM and a closed terminal end it', async () => {
    await using killed = await keygen({ bare: true });
    await killed.wait(FIRST);
    killed.kill('SIGTERM');
    expect(await killed.ended()).toBe(130);
    await using closed = await keygen({ bare: true });
    await closed.wait(FIRST);
    closed.hangUp();
    expect(await closed.ended()).toBe(130);
  });
});

describe('the passphrase of a signing key, amid live lines', () => {
  const locked = (): Promise<Terminal> =>
    Terminal.open(['--dkms', 'locked', '--dkms', 'long'], { standIn: true });

  test('the lines stand still while it is asked', async () => {
    await using terminal = await locked();
    await terminal.wait(/Passphrase: $/);
    terminal.type('corr');
    // Long enough for ten of them.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(terminal.text).toMatch(/Passphrase: $/);
    terminal.type('ect\r');
    await terminal.wait(/it has 7 letters/);
    terminal.type('\x03');
    expect(await terminal.ended()).toBe(130);
    expect(terminal.text).not.toContain('corr');
    expect(await terminal.restored()).toBe(true);
  });

  test('Ctrl-C ends the run', async () => {
    await using terminal = await locked();
    await terminal.wait(/Passphrase: $/);
    terminal.type('\x03');
    expect(await terminal.ended()).toBe(130);
    expect(await terminal.restored()).toBe(true);
  });
});
