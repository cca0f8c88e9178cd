import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Guest } from '../../../src/guest/guest.js';
import {
  packedPython,
  programFiles,
  programText,
  strangeRow,
  type ProgramName,
} from '../../../src/guest/program.js';
import { PROGRAM_ENDS, readEnd, requireSuccess } from '../../../src/guest/protocol.js';
import { endOf } from '../../../src/guest/transport.js';
import { Dkms2binError } from '../../../src/model/errors.js';

const GUEST = join(import.meta.dirname, '../../../cloud-init/guest');
const textOf = (file: string): string => readFileSync(join(GUEST, file), 'utf8');

/** Those that have exit codes of their own. */
const PROGRAMS: ProgramName[] = [
  'build.sh',
  'fetch-source.sh',
  'install-kernel-apt.sh',
  'install-kernel-rpm.sh',
  'prove.py',
  'verify.py',
];

const output = (code: number, ...reports: [key: string, value: string][]) => ({
  code,
  tail: 'one\ntwo\nthree\nlast words',
  reports: reports.map(([key, value]) => ({ key, value })),
});

const thrown = (work: () => unknown): Dkms2binError => {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(Dkms2binError);
    return error as Dkms2binError;
  }
  throw new Error('nothing was thrown');
};

describe('exit codes', () => {
  it('are the same in the guest and on the host', () => {
    const lines = textOf('lib/exit-codes.sh').split('\n');
    const codes = lines.flatMap((line) => {
      const [, name, code] = /^E_([A-Z_]+)=(\d+)(?: |$)/.exec(line) ?? [];
      return name === undefined ? [] : [[Number(code), name]];
    });
    expect(codes).toHaveLength(lines.filter((line) => line !== '' && !line.startsWith('#')).length);
    expect(Object.fromEntries(codes)).toEqual(
      Object.fromEntries(Object.entries(PROGRAM_ENDS).map(([code, { name }]) => [code, name])),
    );
  });

  it.each(PROGRAMS)('%s ends by name alone, with names that there are', (program) => {
    const known = new Set<string>(Object.values(PROGRAM_ENDS).map(({ name }) => `E_${name}`));
    const files = programFiles(program).filter((file) => file !== 'lib/exit-codes.sh');
    const text = files.map(textOf).join('');
    const used = text.match(/\bE_[A-Z_]+/g) ?? [];
    expect(used.filter((name) => !known.has(name))).toEqual([]);
    expect(used.length).toBeGreaterThan(3);
    expect(text).not.toMatch(/\bfail[ (]\d/);
  });
});

describe('readEnd', () => {
  it.each([
    [2, 'usage'],
    [3, 'not-found'],
    [4, 'module'],
    [5, 'transient'],
    [7, 'module'],
    [8, 'transient'],
    [9, 'transient'],
    [20, 'transient'],
    [99, 'transient'],
  ])('%d is %s', (code, fault) => {
    const error = thrown(() =>
      readEnd(output(code, ['error', 'a reason']), ['DONE'], (why) => ({ message: `x: ${why}` })),
    );
    expect(error).toMatchObject({ fault, message: 'x: a reason', hint: undefined });
  });

  it('passes what is expected, and tells which it was', () => {
    const describe_ = (): never => expect.unreachable();
    expect(readEnd(output(0), ['DONE', 'BAD'], describe_)).toBe('DONE');
    expect(readEnd(output(1), ['DONE', 'BAD'], describe_)).toBe('BAD');
  });

  it('quotes the last lines of a program that names no error', () => {
    const error = thrown(() =>
      readEnd(output(137), ['DONE'], (why, end) => ({ message: `${why} ${end}`, hint: 'next' })),
    );
    expect(error).toMatchObject({ message: 'two\nthree\nlast words null', hint: 'next' });
  });

  it('any failure of a program without codes of its own is transient', () => {
    expect(thrown(() => requireSuccess(output(7), 'It did not settle'))).toMatchObject({
      fault: 'transient',
      message: 'It did not settle:\none\ntwo\nthree\nlast words',
    });
    expect(() => requireSuccess(output(0), '')).not.toThrow();
  });
});

describe('the text of a program', () => {
  it('has the variables first, quoted for its language, then codes, library and program', async () => {
    const shell = await programText('fetch-source.sh', { NAME: "it's", COUNT: 2 });
    expect(shell.startsWith(`NAME='it'\\''s'\nCOUNT='2'\n`)).toBe(true);
    const order = ['\nE_DONE=0', '\nfail() {', '\napt_update() {', '\ncase $KIND in'].map((text) =>
      shell.indexOf(text),
    );
    expect(order).toEqual([...order].sort((a, b) => a - b));
    expect(order[0]).toBeGreaterThan(0);
    const python = await programText('verify.py', { MODULES: ['a"b', 'c'], SIZE: 3 });
    expect(python.startsWith(`MODULES=["a\\"b","c"]\nSIZE=3\nE_DONE=0\n`)).toBe(true);
  });

  it('leaves room for variables in the one message of the channel that holds a Python program', async () => {
    for (const name of ['verify.py', 'prove.py', 'upgrade.py', 'collect.py', 'pack-rpm.py'] as const) {
      expect(JSON.stringify({ python: packedPython(await programText(name, {})) }).length).toBeLessThan(
        13 * 1024,
      );
    }
  });
});

it('a result line carries the word of its run: no program prints one by itself', () => {
  const files = readdirSync(GUEST, { recursive: true, encoding: 'utf8' }).filter((file) =>
    /\.(sh|py)$/.test(file),
  );
  const printing = files.filter((file) => /(?:printf|echo|print\(|out\() *["']@@dkms2bin/.test(textOf(file)));
  expect(printing.sort()).toEqual(['lib/common.sh', 'lib/load.py']);
});

it('the host knows every key of a result line that a program prints', () => {
  const programs = readdirSync(GUEST).filter((file) => /\.(sh|py)$/.test(file) && file !== 'agent.py');
  let keys = 0;
  for (const name of programs as ProgramName[]) {
    const text = programFiles(name)
      .map(textOf)
      .join('')
      .replaceAll(/^ *#.*$/gm, '');
    for (const [, shell, python] of text.matchAll(/\bsay ([a-z][a-z-]*)|\bsay\("([a-z-]+)"/g)) {
      const key = shell ?? python ?? '';
      if (key === 'progress' || key === 'key') continue;
      keys += 1;
      expect(strangeRow(name, [{ key }]), `${name}: ${key}`).toBeUndefined();
    }
  }
  expect(keys).toBeGreaterThan(50);
});

describe('a program that may not be silent', () => {
  /** A guest that prints each line after a pause of `ms`, and then nothing until it is given up. */
  const slow = (lines: string[], ms: number): Guest =>
    new Guest({
      alive: (work) => work,
      transport: {
        exec: async (_, { input, stdout, stderr, giveUp }) => {
          const sent = typeof input === 'string' || Buffer.isBuffer(input) ? input.toString() : '';
          const [nonce] = /[0-9a-f]{32}/.exec(sent) ?? [];
          for (const line of lines) {
            await sleep(ms);
            stdout.write(`${line.replace('@@dkms2bin', `@@dkms2bin:${nonce}`)}\n`);
          }
          await new Promise((resolve) => giveUp?.addEventListener('abort', resolve));
          await Promise.all([endOf(stdout), endOf(stderr)]);
          return { code: null, timedOut: true };
        },
        close: () => Promise.resolve(),
      },
    });

  it('is given up when it has done nothing for so long, whatever it did before', async () => {
    const lines = ['one', '@@dkms2bin progress ', '@@dkms2bin progress ', 'two'];
    const said: string[] = [];
    const run = { timeoutMs: 60_000, silenceMs: 400, onLine: (line: string) => said.push(line) };
    const started = Date.now();
    await expect(slow(lines, 250).script('settle.sh', {}, run)).rejects.toMatchObject({
      fault: 'transient',
      message: 'settle.sh has done nothing in the guest for 0 s; it last said:\none\ntwo',
    });
    expect(Date.now() - started).toBeGreaterThan(1300);
    expect(said).toEqual(['one', 'two']);
  });
});

describe('bytes on their way', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }));
  afterEach(() => void vi.useRealTimers());

  /** A guest that moves a piece each 100 s, `pieces` of them, and then stands still or is done. */
  const slow = (pieces: number, done: boolean): Guest =>
    new Guest({
      alive: (work) => work,
      transport: {
        exec: async (_, { stdout, stderr, onInput, giveUp }) => {
          for (let piece = 0; piece < pieces; piece++) {
            await new Promise((resolve) => setTimeout(resolve, 100_000));
            onInput?.();
            stdout.write('piece');
          }
          if (!done) await new Promise((resolve) => giveUp?.addEventListener('abort', resolve));
          await Promise.all([endOf(stdout), endOf(stderr)]);
          return { code: done ? 0 : null, timedOut: !done };
        },
        close: () => Promise.resolve(),
      },
    });
  const put = (guest: Guest): Promise<void> => guest.put({ bytes: Buffer.from('x') }, '/x');
  const read = async (guest: Guest): Promise<void> => {
    const { stdout, done } = await guest.program('collect.py', {});
    stdout.resume();
    await done;
  };

  it.each([
    ['sent', put],
    ['read', read],
  ])('may take their time to be %s, and are given up when they stand still', async (_, move) => {
    let over = false;
    const finish = () => void (over = true);
    const until = async (work: Promise<void>): Promise<void> => {
      over = false;
      work.then(finish, finish);
      for (; !over; await new Promise(setImmediate)) await vi.advanceTimersByTimeAsync(50_000);
      return work;
    };
    await expect(until(move(slow(40, true)))).resolves.toBeUndefined();
    await expect(until(move(slow(3, false)))).rejects.toMatchObject({ fault: 'transient' });
  });
});
