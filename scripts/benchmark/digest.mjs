import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { promisify } from 'node:util';

export function sha256(chunks) {
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest('hex');
}

/** SHA-256 of the modules in a .deb. */
export async function digestOfModules(file) {
  const { stdout } = await promisify(execFile)(
    'bash',
    ['-c', 'set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards "*.ko"', 'bash', file],
    { encoding: 'buffer', maxBuffer: 2 ** 29 },
  );
  return sha256([stdout]);
}
