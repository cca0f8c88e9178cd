import type { X509Certificate } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import type { Guest } from '../guest/guest.js';
import { keyNameOf } from '../formats/certificate.js';
import type { Network } from '../vm/args.js';
import { writeTrustingVars } from '../vm/efivars.js';
import { findFirmware } from '../vm/firmware.js';
import type { KernelLayer } from './kernel-layer.js';
import type { Booted, Machine } from './boot.js';
import { bootOn } from './snapshot.js';

/**
 * Boots a kernel layer in `dir` as a machine does whose owner enrolled `certificate` and lets no module in without a
 * signature: by UEFI, with the certificate in the firmware's `db` and module.sig_enforce=1. Resolves once the running kernel
 * says both, so that what loads there loads for no other reason. Never from a snapshot: a kernel reads the firmware's keys
 * as it boots. Throws fault `usage` for a kernel, or a certificate, that this cannot be done with.
 */
export async function bootEnforcing(
  { layer, network }: { layer: KernelLayer; network: Network },
  certificate: X509Certificate,
  dir: string,
  machine: Machine,
): Promise<Booted> {
  await checkConfig(layer);
  const { code, vars: template } = await findFirmware(machine.arch);
  const uefi = { code, vars: join(dir, 'efivars.fd') };
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await writeTrustingVars(template, certificate.raw, uefi.vars);
  const cmdline = `${layer.boot.cmdline} module.sig_enforce=1`;
  const trusting: KernelLayer = { ...layer, boot: { ...layer.boot, cmdline, uefi } };
  const booted = await bootOn({ layer: trusting, snapshot: null }, network, dir, machine);
  try {
    await checkEnforcing(booted.guest, layer.release, certificate);
    return booted;
  } catch (error) {
    await booted[Symbol.asyncDispose]();
    throw error;
  }
}

async function checkConfig({ release, config }: KernelLayer): Promise<void> {
  const set = new Set((await readFile(config, 'utf8')).split('\n'));
  const missing = NEEDED.filter((option) => !set.has(`${option}=y`));
  if (missing.length === 0) return;
  throw new Dkms2binError(
    'usage',
    `Kernel ${release} takes no keys from the firmware: it was built without ${missing.join(' and ')}`,
    { hint: 'Prove the repository without --sign-cert, or for another kernel.' },
  );
}

const NEEDED = ['CONFIG_MODULE_SIG', 'CONFIG_EFI_STUB', 'CONFIG_LOAD_UEFI_KEYS'];

/** Asks the kernel itself. Throws fault `usage` when it does not ask for signatures, or did not take the certificate. */
async function checkEnforcing(guest: Guest, release: string, certificate: X509Certificate): Promise<void> {
  const [enforce = '', ...keys] = (
    await guest.text('cat /sys/module/module/parameters/sig_enforce /proc/keys')
  ).split('\n');
  if (enforce !== 'Y') {
    throw new Dkms2binError('usage', `Kernel ${release} does not obey module.sig_enforce=1`);
  }
  // ID FLAGS USES TIMEOUT PERMISSIONS UID GID asymmetri SUBJECT: KEY: X509.rsa …
  const name = `: ${keyNameOf(certificate)}: X509.`;
  if (!keys.some((line) => line.includes(' asymmetri ') && line.includes(name))) {
    const said = await guest.text("dmesg | grep -Ei 'integrity:|x\\.?509|uefi:' | tail -n 6 || true");
    throw new Dkms2binError(
      'usage',
      `Kernel ${release} did not take the certificate from the firmware's db; its log says:\n${said.trim()}`,
      { hint: 'Its kind of key may be unknown to this kernel. RSA with SHA-256 works on all of them.' },
    );
  }
}
