import { join } from 'node:path';
import { readCertificate } from '../formats/certificate.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { readCapped } from '../lib/read-capped.js';
import { makeEnrolment } from '../pack/enrolment.js';
import { scan } from '../repo/package-files.js';

/**
 * Puts the package into a folder that enrols the certificate in this file (absolute; PEM or DER) where it is installed: for apt, for dnf
 * and zypper, or for both, as the folder's other packages are. An empty one gets that for apt.
 */
export async function addEnrolment(dir: string, certificate: string, signal: AbortSignal): Promise<void> {
  const read = readCertificate(await readCapped(certificate, 2 ** 20), certificate);
  const { packages } = await scan(dir, signal);
  const forms = (['deb', 'rpm'] as const).filter((form) => packages.some(({ format }) => format === form));
  for (const { file, bytes } of await makeEnrolment(read, certificate, forms.length > 0 ? forms : ['deb']))
    await writeAtomic(bytes, join(dir, file));
}
