import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import { lendKeyboard, type Keyboard } from '../../../src/lib/keyboard.js';

function keyboard(): { keys: PassThrough & Keyboard; modes: boolean[] } {
  const modes: boolean[] = [];
  const setRawMode = (raw: boolean): void => void modes.push(raw);
  return { keys: Object.assign(new PassThrough(), { isTTY: true, setRawMode }), modes };
}

const never = new AbortController().signal;
const nothing = { typed: () => undefined, ended: () => undefined, stopped: () => undefined };

/** What is typed up to a full stop. */
const sentence = (keys: Keyboard, signal = never): Promise<string> =>
  lendKeyboard<string>(keys, { signal }, (done, fail) => {
    let text = '';
    return {
      typed: (bytes) => {
        text += bytes.toString();
        const at = text.indexOf('.');
        if (at === -1) return;
        done(text.slice(0, at));
        return Buffer.from(text.slice(at + 1));
      },
      ended: () => done('the end'),
      stopped: fail,
    };
  });

test('two dialogues at once have it one after the other, and what the first leaves is the second one’s', async () => {
  const { keys, modes } = keyboard();
  const both = Promise.all([sentence(keys), sentence(keys)]);
  keys.write('one.tw');
  keys.write('o.three.');
  expect(await both).toEqual(['one', 'two']);
  expect(await sentence(keys)).toBe('three');
  expect(modes).toEqual([true, false, true, false, true, false]);
});

test('a dialogue that throws, or that is stopped, gives the terminal back as it was', async () => {
  const { keys, modes } = keyboard();
  const broken = lendKeyboard(keys, { signal: never }, () => {
    throw new Error('no such program');
  });
  await expect(broken).rejects.toThrow('no such program');
  const controller = new AbortController();
  const stopped = sentence(keys, controller.signal);
  setImmediate(() => controller.abort(new Error('stop')));
  await expect(stopped).rejects.toThrow('stop');
  await expect(sentence(keys, controller.signal)).rejects.toThrow('stop');
  expect(modes).toEqual([true, false, true, false]);
  for (const event of ['data', 'end', 'error']) expect(keys.listenerCount(event), event).toBe(0);
  expect(keys.isPaused()).toBe(true);
});

test('the end of a terminal is that it was closed, now and for those that come later', async () => {
  const { keys } = keyboard();
  const asked = sentence(keys);
  keys.end();
  await expect(asked).rejects.toThrow('The terminal was closed');
  await expect(sentence(keys)).rejects.toThrow('The terminal was closed');
});

test('without a terminal the end is an end', async () => {
  const keys = new PassThrough();
  keys.end();
  expect(await sentence(keys)).toBe('the end');
  expect(await sentence(keys)).toBe('the end');
  await expect(
    lendKeyboard(keys, { signal: AbortSignal.abort(new Error('late')) }, () => nothing),
  ).rejects.toThrow('late');
});
