import { createHash, type X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { debFile, debName } from '../distro/deb-names.js';
import { isSelfSigned } from '../formats/certificate.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { oneLine } from '../lib/text.js';
import { Dkms2binError } from '../model/errors.js';
import { MAINTAINER, makeDeb } from './deb.js';

/**
 * A package that carries a certificate and asks the firmware of whoever installs it to trust it with kernel modules. Its name comes from
 * the certificate's, its version from its first day. Throws fault `usage` for a certificate that is under another one.
 */
export async function makeEnrolment(
  certificate: X509Certificate,
  what: string,
): Promise<{ file: string; bytes: Buffer }> {
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
  const version = from.toISOString().replace(/[-T:]/g, '.').slice(0, 16);
  const text = async (file: string): Promise<string> =>
    (await readFile(join(PACKAGE_ROOT, 'cloud-init/package', file), 'utf8'))
      .replaceAll('@NAME@', name)
      .replaceAll('@SUBJECT@', subject);
  const bytes = makeDeb({
    control: {
      ...{ package: name, version, architecture: 'all', maintainer: MAINTAINER },
      ...{ section: 'kernel', priority: 'optional' },
      depends: ['debconf (>= 0.5) | debconf-2.0', 'mokutil'],
      enrols: createHash('sha256').update(certificate.raw).digest('hex'),
      description: {
        synopsis: 'enrols the certificate that kernel modules are signed under',
        lines: [
          'With Secure Boot the kernel loads modules only that are signed under a',
          'certificate which the firmware trusts. This package asks the firmware to',
          'trust this one; who sits at the console confirms it at the next start.',
          '',
          `  Certificate: ${subject}`,
        ],
      },
    },
    files: [{ path: `/usr/share/module-keys/${name}.der`, mode: 0o644, bytes: certificate.raw }],
    scripts: {
      postinst: await text('enrol-postinst.sh'),
      postrm: await text('enrol-postrm.sh'),
      config: await text('enrol-config.sh'),
      templates: await text('enrol-templates'),
    },
    mtime: Math.max(0, from.getTime() / 1000),
  });
  return { file: debFile({ name, version, architecture: 'all' }), bytes };
}
