import type { Proof } from '../model/proof.js';
import { oneLine } from '../lib/text.js';
import type { UpgradeProof } from '../model/upgrade-proof.js';
import { table } from './text.js';

/** What was proved, a line for each module, and what it saved. */
export function proofText(proof: Proof): string {
  const { modules, saved, signedBy, enforced, kernel, distro, fromDistro } = proof;
  const rows = modules.map((m) => [m.verdict, m.module, m.package, m.version, m.reason ?? '']);
  const key = signedBy === null ? 'not signed' : `signed by ${signedBy}`;
  return [
    table(rows),
    `installed on ${oneLine(distro)}, ${oneLine(kernel)}, without compiler, headers or dkms; the repository is ${key}\n`,
    fromDistro.length > 0
      ? `from the distro's own package sources came ${fromDistro.map(oneLine).join(', ')}\n`
      : '',
    enforced === null
      ? ''
      : `the kernel loaded only modules signed with the certificate ${enforced} (module.sig_enforce=1)\n`,
    saved
      ? `${savingText(saved)}\n`
      : `what was saved is unknown: ${oneLine(distro)} does not say how much this kernel's headers and dkms would take\n`,
  ].join('');
}

/** How a machine came to its next kernel, a line for each step and module. */
export function upgradeText(proof: UpgradeProof): string {
  const { from, to, held, upgraded, modules, removed, follows, metapackages, standIns } = proof;
  const moved = upgraded.map((each) => `${each.package} ${each.version}`).join(', ');
  return table([
    ...modules
      .filter(({ kernel }) => kernel === from)
      .map((m) => [m.verdict, m.module, m.kernel, m.reason ?? '']),
    ...held.map(({ upgrade, kept, said }) => [kept ? 'kept' : 'lost', from, `apt ${upgrade}`, said]),
    ...(upgraded.length > 0 ? [['upgraded', to, 'apt upgrade', moved]] : []),
    ...modules
      .filter(({ kernel }) => kernel !== from)
      .map((m) => [m.verdict, m.module, m.kernel, m.reason ?? '']),
    ...(removed.length > 0 ? [['removed', from, 'apt remove', removed.join(', ')]] : []),
  ]).concat(
    `followed ${oneLine(follows.package)} to ${oneLine(follows.version)} with ${metapackages.map(oneLine).join(', ')}\n`,
    standIns.length > 0
      ? `the distro no longer has ${oneLine(follows.package)} ${standIns.map(oneLine).join(' and ')}: one like it stood in\n`
      : '',
  );
}

/** `saves 453 MB on disk (109 packages, 113 MB to download) against …`. */
function savingText({
  packages,
  installedBytes,
  downloadBytes,
  instead,
  takes,
}: NonNullable<Proof['saved']>): string {
  const what = instead.of
    .map(oneLine)
    .join(', ')
    .replace(/, ([^,]*)$/, ' and $1');
  const own = takes.packages === 1 ? 'the package takes' : `the ${takes.packages} packages take`;
  return `saves ${megabytes(installedBytes)} on disk (${packages} packages, ${megabytes(downloadBytes)} to download) compared with installing ${what}; ${own} ${megabytes(takes.installedBytes)}`;
}

/** In millions of bytes, as package managers have them. */
function megabytes(bytes: number): string {
  const value = bytes / 1e6;
  return `${value >= 10 ? Math.round(value) : Number(value.toPrecision(2))} MB`;
}
