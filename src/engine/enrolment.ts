import { join } from 'node:path';
import { readCertificate } from '../formats/certificate.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { readCapped } from '../lib/read-capped.js';
import { makeEnrolment } from '../pack/enrolment.js';

/** Puts the package into a folder that enrols the certificate in this file (absolute; PEM or DER) where it is installed. */
export async function addEnrolment(dir: string, certificate: string): Promise<void> {
  const read = readCertificate(await readCapped(certificate, 2 ** 20), certificate);
  const { file, bytes } = await makeEnrolment(read, certificate);
  await writeAtomic(bytes, join(dir, file));
}
