import { createHash, type X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { debFile, debName } from '../distro/deb-names.js';
import type { RpmHeader } from '../formats/rpm-header.js';
import { isSelfSigned } from '../formats/certificate.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { oneLine } from '../lib/text.js';
import { Dkms2binError } from '../model/errors.js';
import { MAINTAINER, makeDeb } from './deb.js';
import { makeRpm } from './rpm-file.js';

/**
 * A package that carries a certificate and asks the firmware of whoever installs it to trust it with kernel modules, in each of `forms`. Its
 * name comes from the certificate's, its version from its first day. Throws fault `usage` for a certificate that is under another one.
 */
export async function makeEnrolment(
  certificate: X509Certificate,
  what: string,
  forms: readonly ('deb' | 'rpm')[],
): Promise<{ file: string; bytes: Buffer }[]> {
  if (!isSelfSigned(certificate)) {
    throw new Dkms2binError('usage', `${what} is under an authority, and not what machines enrol`, {
      hint: "Give the authority's certificate (ca.pem).",
    });
  }
  const { CN = '' } = certificate.toLegacyObject().subject as { CN?: string | string[] };
  const subject = oneLine([CN].flat()[0] ?? '').trim();
  const slug = debName(subject).slice(0, 60);
  if (slug === '') {
    throw new Dkms2binError('usage', `${what} has no name that a package could have`, {
      hint: 'Make one with letters or digits: dkms2bin keygen --name NAME.',
    });
  }
  const name = `module-key-${slug}`;
  const from = new Date(certificate.validFrom);
  const of: Enrolment = {
    ...{ name, subject, der: certificate.raw, mtime: Math.max(0, from.getTime() / 1000) },
    version: from.toISOString().replace(/[-T:]/g, '.').slice(0, 16),
    sha256: createHash('sha256').update(certificate.raw).digest('hex'),
    text: async (file) =>
      (await readFile(join(PACKAGE_ROOT, 'cloud-init/package', file), 'utf8'))
        .replaceAll('@NAME@', name)
        .replaceAll('@SUBJECT@', subject),
  };
  return Promise.all(forms.map((form) => (form === 'deb' ? debOf(of) : rpmOf(of))));
}

interface Enrolment {
  name: string;
  version: string;
  subject: string;
  der: Buffer;
  sha256: string;
  /** Seconds since 1970. */
  mtime: number;
  /** A file of cloud-init/package, filled in. */
  text: (file: string) => Promise<string>;
}

const SYNOPSIS = 'enrols the certificate that kernel modules are signed under';
const lines = (subject: string): string[] => [
  'With Secure Boot the kernel loads modules only that are signed under a',
  'certificate which the firmware trusts. This package asks the firmware to',
  'trust this one; who sits at the console confirms it at the next start.',
  '',
  `  Certificate: ${subject}`,
];

const pathOf = (name: string): string => `/usr/share/module-keys/${name}.der`;

async function debOf({ name, version, subject, der, sha256, mtime, text }: Enrolment) {
  const bytes = makeDeb({
    control: {
      ...{ package: name, version, architecture: 'all', maintainer: MAINTAINER },
      ...{ section: 'kernel', priority: 'optional' },
      depends: ['debconf (>= 0.5) | debconf-2.0', 'mokutil'],
      enrols: sha256,
      description: { synopsis: SYNOPSIS, lines: lines(subject) },
    },
    files: [{ path: pathOf(name), mode: 0o644, bytes: der }],
    scripts: {
      postinst: await text('enrol-postinst.sh'),
      postrm: await text('enrol-postrm.sh'),
      config: await text('enrol-config.sh'),
      templates: await text('enrol-templates'),
    },
    mtime,
  });
  return { file: debFile({ name, version, architecture: 'all' }), bytes };
}

/** rpm asks nothing: the password, hashed by mokutil, may be there as a file before. */
async function rpmOf({ name, version, subject, der, sha256, mtime, text }: Enrolment) {
  const bytes = makeRpm({
    ...{ name, version, release: '1', architecture: 'noarch', packager: MAINTAINER, mtime },
    ...{ summary: SYNOPSIS, description: lines(subject).join('\n') },
    ...{ requires: ['/bin/sh', 'mokutil'], recommends: [], conflicts: [], obsoletes: [] },
    provides: [`${ENROLS_RPM}(${sha256})`],
    files: [{ path: pathOf(name), bytes: der, settings: false }],
    scripts: { post: await text('enrol-rpm-post.sh'), preun: await text('enrol-rpm-preun.sh') },
  });
  return { file: `${name}-${version}-1.noarch.rpm`, bytes };
}

const ENROLS_RPM = 'dkms2bin-enrols';

/** Whether a package has a certificate enrolled. */
export const rpmEnrols = ({ relations }: RpmHeader): boolean =>
  relations.provides.some((each) => each.name.startsWith(`${ENROLS_RPM}(`));
