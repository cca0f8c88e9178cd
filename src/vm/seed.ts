import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../lib/exec.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { MAC, NET } from './args.js';

export interface SeedInput {
  /** New for every VM that shall configure itself anew; a kept VM keeps its own. */
  instanceId: string;
  user: string;
  userPublicKey: string;
  hostPrivateKey: string;
  hostPublicKey: string;
  egress: boolean;
}

const indent = (text: string, by: number): string =>
  text
    .trim()
    .split('\n')
    .map((line) => ' '.repeat(by) + line)
    .join('\n');

async function template(name: string, values: Record<string, string>): Promise<string> {
  const text = await readFile(join(PACKAGE_ROOT, 'cloud-init', name), 'utf8');
  return text.replace(/@([A-Z_]+)@/g, (_, key: string) => {
    const value = values[key];
    if (value === undefined) throw new Error(`cloud-init/${name} uses unknown @${key}@`);
    return value;
  });
}

/** Writes a NoCloud ISO labelled `cidata` to `<dir>/seed.iso` and returns its path. */
export async function makeSeed(input: SeedInput, dir: string, signal?: AbortSignal): Promise<string> {
  await writeFile(
    join(dir, 'user-data'),
    await template('user-data.yaml', {
      USER: input.user,
      USER_KEY: input.userPublicKey.trim(),
      HOST_KEY: indent(input.hostPrivateKey, 4),
      HOST_KEY_PUBLIC: input.hostPublicKey.trim(),
    }),
    { mode: 0o600 },
  );
  await writeFile(join(dir, 'meta-data'), await template('meta-data.yaml', { INSTANCE: input.instanceId }));
  await writeFile(
    join(dir, 'network-config'),
    await template('network-config.yaml', {
      MAC_MANAGEMENT: MAC.management,
      ADDRESS_MANAGEMENT: `${NET.management.guest}/24`,
      EGRESS: input.egress
        ? (
            await template('network-egress.yaml', {
              MAC_EGRESS: MAC.egress,
              ADDRESS_EGRESS: `${NET.egress.guest}/24`,
              GATEWAY: NET.egress.gateway,
              DNS: NET.egress.dns,
            })
          ).trimEnd()
        : '',
    }),
  );
  const iso = join(dir, 'seed.iso');
  await run(
    'xorriso',
    [
      '-as',
      'mkisofs',
      '-quiet',
      '-V',
      'cidata',
      '-J',
      '-R',
      '-o',
      iso,
      'user-data',
      'meta-data',
      'network-config',
    ],
    { cwd: dir, ...(signal ? { cancelSignal: signal } : {}) },
  );
  return iso;
}
