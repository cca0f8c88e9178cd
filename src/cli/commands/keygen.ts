import { hostname } from 'node:os';
import { relative, resolve } from 'node:path';
import type { Command } from 'commander';
import { Dkms2binError } from '../../model/errors.js';
import { findPassphrase, PASSPHRASE_HINT } from '../../lib/passphrase.js';
import { quote } from '../../lib/text.js';
import { askSecret } from '../ask.js';
import type { CliContext } from '../context.js';
import * as value from '../../options/values.js';

interface KeygenFlags {
  outDir: string;
  name?: string;
  days: number;
  encrypt?: true;
  passphraseFile?: string;
}

export function addKeygen(program: Command, context: CliContext): void {
  program
    .command('keygen')
    .summary('make a key and a certificate for signing modules')
    .description(
      "Makes an RSA key and its self-signed certificate for signing kernel modules, in the form that Secure Boot's machine owner keys (MOK) want: mok.key, mok.pem and mok.der. Files that are there are never replaced.",
    )
    .option('--out-dir <dir>', 'folder for the three files', value.text('--out-dir'), '.')
    .option(
      '--name <name>',
      'name in the certificate, by which people tell keys apart (default: "HOST module signing")',
      value.text('--name'),
    )
    .option('--days <n>', 'how long the certificate is valid', value.days('--days'), 3650)
    .option(
      '--encrypt',
      'encrypt the key with a passphrase: of --passphrase-file, of DKMS2BIN_SIGN_PASSPHRASE, or asked for on the terminal',
    )
    .option(
      '--passphrase-file <file>',
      'file whose first line is the passphrase; implies --encrypt',
      value.text('--passphrase-file'),
    )
    .action(async (flags: KeygenFlags) => {
      const { cwd, stdout, signal } = context;
      const { makeKeyPair } = await import('../../pack/keygen.js');
      const passphrase = await passphraseFor(flags, context);
      const { key, cert, der, keyId, notAfter } = await makeKeyPair({
        outDir: resolve(cwd, flags.outDir),
        name: flags.name ?? `${hostname().slice(0, 40)} module signing`,
        days: flags.days,
        signal,
        ...(passphrase !== undefined && { passphrase }),
      });
      const [k, c, d] = [key, cert, der].map((file) => shellWord(relative(cwd, file) || file));
      stdout.write(
        `Made ${k}, ${c} and ${d} (key id ${keyId}, valid until ${notAfter.toISOString().slice(0, 10)}).\n` +
          `Keep ${k} secret${passphrase === undefined ? '; it has no passphrase (--encrypt)' : ''}.\n` +
          `\nSign modules with:\n  --sign-key ${k} --sign-cert ${c}\n` +
          `\nOn each machine that shall load them under Secure Boot, once, then reboot and confirm at its console:\n  sudo mokutil --import ${d}\n`,
      );
    });
}

async function passphraseFor(flags: KeygenFlags, context: CliContext): Promise<string | undefined> {
  if (!flags.encrypt && flags.passphraseFile === undefined) return undefined;
  const found = await findPassphrase('Passphrase of the new key: ', {
    cwd: context.cwd,
    ...(flags.passphraseFile !== undefined && { file: flags.passphraseFile }),
    ...(context.stdin.isTTY && { prompt: (question) => askTwice(question, context) }),
  });
  if (found !== undefined) return found;
  throw new Dkms2binError('usage', 'The passphrase for the new key is missing', { hint: PASSPHRASE_HINT });
}

async function askTwice(question: string, context: CliContext): Promise<string> {
  const first = await askSecret(question, context);
  if (first === (await askSecret('The same once more: ', context))) return first;
  throw new Dkms2binError('usage', 'The two passphrases differ');
}

const shellWord = (path: string): string => (/^[A-Za-z0-9_./~+-]+$/.test(path) ? path : quote(path));
