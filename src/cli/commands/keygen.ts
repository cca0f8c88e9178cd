import { hostname } from 'node:os';
import { relative, resolve } from 'node:path';
import { Dkms2binError } from '../../model/errors.js';
import { findPassphrase, PASSPHRASE_HINT } from '../../lib/passphrase.js';
import { quote } from '../../lib/text.js';
import type { Authority } from '../../pack/keygen.js';
import { askSecret } from '../ask.js';
import { command, type CommandContext } from '../frame.js';
import type { OptionsOf } from '../../options/table.js';

export const keygen = command({
  name: 'keygen',
  summary: 'make a key and a certificate for signing modules',
  description:
    "Makes an RSA key and its self-signed certificate for signing kernel modules, in the form that Secure Boot's machine owner keys (MOK) want: mok.key, mok.pem and mok.der. For a fleet, --ca makes an authority (ca.key, ca.pem, ca.der), which machines enrol once, and --ca-key with --ca-cert a key under it (leaf.key, leaf.pem). Files that are there are never replaced.",
  run: async ({ options }, context) => {
    const { cwd, stdout, signal } = context;
    const { makeKeyPair } = await import('../../pack/keygen.js');
    const under = await authorityOf(options, context);
    const alone = options.ca ? 'authority' : 'self-signed';
    const kind = under ? { under } : alone;
    const host = hostname().slice(0, 40);
    const passphrase = await passphraseFor(options, context);
    const made = await makeKeyPair({
      outDir: resolve(cwd, options.outDir),
      name: options.name ?? `${host} module ${kind === 'authority' ? 'authority' : 'signing'}`,
      days: options.days ?? DAYS[typeof kind === 'string' ? kind : 'under'],
      kind,
      signal,
      ...(passphrase !== undefined && { passphrase }),
    });
    const word = (file: string): string => shellWord(relative(cwd, file) || file);
    const [key, cert] = [word(made.key), word(made.cert)];
    const files = [key, cert, ...(made.der === null ? [] : [word(made.der)])];
    stdout.write(
      `Made ${files.join(', ').replace(/, ([^,]*)$/, ' and $1')} (key id ${made.keyId}, valid until ${made.notAfter.toISOString().slice(0, 10)}).\n` +
        `Keep ${key} secret${passphrase === undefined ? '; it has no passphrase (--encrypt)' : ''}.\n` +
        (kind === 'authority'
          ? `\nMake a key under it, and again when that one ends:\n  dkms2bin keygen --ca-key ${key} --ca-cert ${cert} --out-dir DIR\n`
          : `\nSign modules with:\n  --sign-key ${key} --sign-cert ${cert}\n`) +
        (made.der === null
          ? `\nMachines that have enrolled ${word(under?.cert ?? '')} load them.\n`
          : `\nOnce on each machine that is to load them under Secure Boot; then reboot and confirm at its console:\n  sudo mokutil --import ${word(made.der)}\n`),
    );
  },
});

const DAYS = { 'self-signed': 3650, authority: 7300, under: 365 } as const;

/** The authority that vouches for the new key; null where there is none. */
async function authorityOf(
  { caKey, caCert, caPassphraseFile }: OptionsOf<'keygen'>,
  context: CommandContext,
): Promise<Authority | null> {
  const { cwd, stdin } = context;
  if ((caKey === undefined) !== (caCert === undefined)) {
    throw new Dkms2binError('usage', `--ca-${caKey === undefined ? 'key' : 'cert'} is missing`, {
      hint: 'An authority has both: dkms2bin keygen --ca makes them.',
    });
  }
  if (caKey === undefined || caCert === undefined) return null;
  const [key, cert] = [resolve(cwd, caKey), resolve(cwd, caCert)];
  const { isEncryptedKey } = await import('../../pack/sign.js');
  if (!(await isEncryptedKey(key))) return { key, cert };
  const passphrase = await findPassphrase(`Passphrase of the authority's key ${key}: `, {
    cwd,
    fromEnv: false,
    ...(caPassphraseFile !== undefined && { file: caPassphraseFile }),
    ...(stdin.isTTY && { prompt: (question) => askSecret(question, context) }),
  });
  if (passphrase !== undefined) return { key, cert, passphrase };
  throw new Dkms2binError('usage', `The passphrase of the authority's key ${key} is missing`, {
    hint: 'Name a file that holds it (--ca-passphrase-file), or run on a terminal, where it is asked for.',
  });
}

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
