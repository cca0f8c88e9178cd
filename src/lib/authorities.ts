import { readFile } from 'node:fs/promises';
import { standardVariable } from './variables.js';

const CERTIFICATE = /^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+\n-----END CERTIFICATE-----$/gm;

/**
 * Certificates of the authorities that NODE_EXTRA_CA_CERTS names, as PEM and without the comments between; '' without any. Node
 * itself warns of a file that it cannot read.
 */
export async function extraAuthorities(): Promise<string> {
  const path = standardVariable('NODE_EXTRA_CA_CERTS');
  if (path === undefined) return '';
  const text = await readFile(path, 'latin1').catch(() => '');
  return (text.replaceAll('\r', '').match(CERTIFICATE) ?? []).join('\n');
}
