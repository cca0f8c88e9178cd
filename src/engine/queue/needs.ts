import { packageVersion } from '../../lib/paths.js';
import type { Need, WorkerInfo } from './protocol.js';

/** Names the queue of cells with this need. */
export function queueOf({ distro, arch, accelerator, signer }: Need): string {
  return [distro, arch, accelerator ?? 'any', signer === null ? 'unsigned' : signer.slice(0, 16)].join('.');
}

/** Whether a worker takes cells with this need. */
export const canDo = (worker: WorkerInfo, need: Need): boolean => missingOf(worker, need).length === 0;

/** What a worker lacks for cells with this need, in words. */
function missingOf(worker: WorkerInfo, { distro, arch, accelerator, signer }: Need): string[] {
  const lacks: [lacking: boolean, words: string][] = [
    [worker.version !== packageVersion(), `is dkms2bin ${worker.version}, not ${packageVersion()}`],
    [!worker.distros.includes(distro), `does not do ${distro}`],
    [!worker.arches.includes(arch), `does not do ${arch}`],
    [
      accelerator !== null && worker.accelerator !== accelerator,
      `has ${worker.accelerator}, not ${accelerator}`,
    ],
    [signer !== null && worker.signer !== signer, 'does not sign with the certificate asked for'],
  ];
  return lacks.flatMap(([lacking, words]) => (lacking ? [words] : []));
}

/** Why none of the workers takes cells with this need. */
export function nobodyFor(need: Need, workers: readonly WorkerInfo[]): string {
  const what = [
    need.distro,
    need.arch,
    ...(need.accelerator ? [need.accelerator] : []),
    ...(need.signer ? ['signed'] : []),
  ].join(' ');
  const who = workers.map((each) => `${each.name} ${missingOf(each, need).join(' and ')}`);
  const why = who.length === 0 ? 'there is no worker' : who.slice(0, 5).join('; ');
  return `No worker can build for ${what}: ${why}`;
}
