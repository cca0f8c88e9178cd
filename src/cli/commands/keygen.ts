import { hostname } from 'node:os';
import { relative, resolve } from 'node:path';
import { Dkms2binError } from '../../model/errors.js';
import { findPassphrase, PASSPHRASE_HINT } from '../../lib/passphrase.js';
import { quote } from '../../lib/text.js';
import { askSecret } from '../ask.js';
import { command, type CommandContext } from '../frame.js';
import type { OptionsOf } from '../../options/table.js';

export const keygen = command({
  name: 'keygen',
  summary: 'make a key and a certificate for signing modules',
  description:
    "Makes an RSA key and its self-signed certificate for signing kernel modules, in the form that Secure Boot's machine owner keys (MOK) want: mok.key, mok.pem and mok.der. Files that are there are never replaced.",
  run: async ({ options }, context) => {
    const { cwd, stdout, signal } = context;
    const { makeKeyPair } = await import('../../pack/keygen.js');
    const passphrase = await passphraseFor(options, context);
    const { key, cert, der, keyId, notAfter } = await makeKeyPair({
      outDir: resolve(cwd, options.outDir),
      name: options.name ?? `${hostname().slice(0, 40)} module signing`,
      days: options.days,
      signal,
      ...(passphrase !== undefined && { passphrase }),
    });
    const [k, c, d] = [key, cert, der].map((file) => shellWord(relative(cwd, file) || file));
    stdout.write(
      `Made ${k}, ${c} and ${d} (key id ${keyId}, valid until ${notAfter.toISOString().slice(0, 10)}).\n` +
        `Keep ${k} secret${passphrase === undefined ? '; it has no passphrase (--encrypt)' : ''}.\n` +
        `\nSign modules with:\n  --sign-key ${k} --sign-cert ${c}\n` +
        `\nOnce on each machine that is to load them under Secure Boot; then reboot and confirm at its console:\n  sudo mokutil --import ${d}\n`,
    );
  },
});

async function passphraseFor(
  options: OptionsOf<'keygen'>,
  context: CommandContext,
): Promise<string | undefined> {
  if (!options.encrypt && options.passphraseFile === undefined) return undefined;
  const found = await findPassphrase('Passphrase of the new key: ', {
    cwd: context.cwd,
    ...(options.passphraseFile !== undefined && { file: options.passphraseFile }),
    ...(context.stdin.isTTY && { prompt: (question) => askTwice(question, context) }),
  });
  if (found !== undefined) return found;
  throw new Dkms2binError('usage', 'The passphrase for the new key is missing', { hint: PASSPHRASE_HINT });
}

async function askTwice(question: string, context: CommandContext): Promise<string> {
  const first = await askSecret(question, context);
  if (first === (await askSecret('The same passphrase again: ', context))) return first;
  throw new Dkms2binError('usage', 'The two passphrases differ');
}

const shellWord = (path: string): string => (/^[A-Za-z0-9_./~+-]+$/.test(path) ? path : quote(path));
