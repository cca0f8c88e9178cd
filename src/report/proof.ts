import type { Proof } from '../model/proof.js';
import { oneLine, table } from './text.js';

/** What was proved, a line for each module, and what it saved. */
export function proofText({ modules, saved, signedBy, enforced, kernel, distro }: Proof): string {
  const rows = modules.map((m) => [m.verdict, m.module, m.package, m.version, m.reason ?? '']);
  const key = signedBy === null ? 'not signed' : `signed by ${signedBy}`;
  return [
    table(rows),
    `installed on ${oneLine(distro)}, ${oneLine(kernel)}, without compiler, headers or dkms; the repository is ${key}\n`,
    enforced === null
      ? ''
      : `the kernel loaded only modules signed with the certificate ${enforced} (module.sig_enforce=1)\n`,
    saved
      ? `${savingText(saved)}\n`
      : `what was saved is unknown: ${oneLine(distro)} does not say how much this kernel's headers and dkms would take\n`,
  ].join('');
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
  return `saves ${megabytes(installedBytes)} on disk (${packages} packages, ${megabytes(downloadBytes)} to download) against installing ${what}; ${own} ${megabytes(takes.installedBytes)}`;
}

/** In millions of bytes, as package managers have them. */
function megabytes(bytes: number): string {
  const value = bytes / 1e6;
  return `${value >= 10 ? Math.round(value) : Number(value.toPrecision(2))} MB`;
}
