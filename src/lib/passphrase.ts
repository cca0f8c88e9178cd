import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { takeVariable } from './variables.js';

const VARIABLE = 'DKMS2BIN_SIGN_PASSPHRASE';
/** openssl reads no more of a line. */
const MAX_BYTES = 1000;

let taken: string | undefined;

/**
 * The passphrase that DKMS2BIN_SIGN_PASSPHRASE holds. It is moved out of the environment, so that processes started
 * later (QEMU above all) do not inherit it.
 */
export function passphraseFromEnv(): string | undefined {
  const value = takeVariable(VARIABLE);
  if (value !== undefined) taken = value === '' ? undefined : value;
  return taken;
}

export interface PassphraseSources {
  /** File whose first line is the passphrase. */
  file?: string;
  cwd: string;
  /** False for a key that the variable is not about. */
  fromEnv?: boolean;
  /** Asks a person, without showing what is typed; leave it out when nobody is there. */
  prompt?: (question: string) => Promise<string>;
}

/**
 * A passphrase from the first of file, environment, person; undefined when there is none of them. Throws fault `usage` for
 * one that cannot be used. No error quotes it.
 */
export async function findPassphrase(
  question: string,
  { file, cwd, prompt, fromEnv = true }: PassphraseSources,
): Promise<string | undefined> {
  const text =
    file !== undefined
      ? await firstLine(resolve(cwd, file))
      : ((fromEnv ? passphraseFromEnv() : undefined) ?? (await prompt?.(question)));
  if (text === undefined) return undefined;
  const unusable = unusableBecause(text);
  if (unusable === undefined) return text;
  throw new Dkms2binError('usage', `The passphrase ${unusable}`, {
    hint: `It comes from ${file ?? `${VARIABLE} or the terminal`}.`,
  });
}

/** The ways to give a passphrase, for hints. */
export const PASSPHRASE_HINT = `Set ${VARIABLE}, name a file that holds it (--passphrase-file), or run on a terminal, where it is asked for.`;

function unusableBecause(text: string): string | undefined {
  if (text === '') return 'is empty';
  if (/[\0\r\n]/.test(text)) return 'is more than one line';
  return Buffer.byteLength(text) > MAX_BYTES ? `is longer than ${MAX_BYTES} bytes` : undefined;
}

async function firstLine(path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new Dkms2binError(
      'usage',
      `Cannot read the passphrase file ${path}: ${error.code ?? error.message}`,
      {
        cause: error,
      },
    );
  });
  return text.replace(/\r?\n[^]*$/, '');
}
