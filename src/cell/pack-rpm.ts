import { join } from 'node:path';
import { Dkms2binError } from '../model/errors.js';
import { rpmbuild } from '../guest/programs/pack-rpm.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { plain } from '../lib/text.js';
import type { PackedPackage } from '../pack/module-package.js';
import { readRpmFile } from '../formats/rpm.js';
import { makeRpmSpec, type RpmInput, type RpmPlan } from '../pack/rpm.js';
import { evrOf, relationText } from '../formats/rpm-header.js';
import type { Booted } from '../environment/boot.js';
import type { CellInput } from './types.js';

/**
 * The packages of one cell, made by the distro's own rpmbuild in a VM that never ran the module's build, in outDir. The order
 * is that of packModules. What comes back is checked against what was asked for, down to the digest of each file.
 */
export async function packRpms(
  input: RpmInput & { outDir: string },
  { guest }: Booted,
  { machine, label, timeoutMs }: Pick<CellInput, 'machine' | 'label' | 'timeoutMs'>,
): Promise<PackedPackage[]> {
  const { spec, sources, packages } = await makeRpmSpec(input);
  const order = {
    spec: Buffer.from(spec),
    sources,
    packages: packages.map(({ file }) => file),
    arch: input.arch,
    epoch: input.mtime,
  };
  // It compresses what it packs, and tells of it only then.
  const made = await rpmbuild(guest, order, timeoutMs);
  const log = plain(made.log).split('\n');
  for (const line of log) machine.emit({ type: 'output', cell: label, line });
  const { rpms } = made;
  if (rpms.length !== packages.length) {
    const why = log.filter((line) => /error|not found|No such/i.test(line));
    throw new Dkms2binError(
      'transient',
      `rpmbuild made no package: ${(why.length > 0 ? why : log).slice(-3).join(' ')}`,
    );
  }
  const packed: PackedPackage[] = [];
  for (const [at, bytes] of rpms.entries()) {
    const plan = packages[at];
    if (!plan) break;
    const path = join(input.outDir, plan.file);
    const published = await writeAtomic(bytes, path);
    const problem = await differs(path, plan);
    if (problem !== null) {
      throw new Dkms2binError(
        'transient',
        `The guest's rpmbuild made a different ${plan.file} from the one asked for: ${problem}`,
      );
    }
    const { role, package: name, version, architecture } = plan;
    packed.push({ role, path, package: name, version, architecture, ...published });
  }
  return packed;
}

/** In what a package is not the one that was planned; null when it is. */
async function differs(path: string, plan: RpmPlan): Promise<string | null> {
  const { header, files } = await readRpmFile(path);
  const is = `${header.name} ${evrOf(header)} ${header.arch}`;
  const wanted = `${plan.package} ${plan.version}-${plan.release} ${plan.architecture}`;
  if (is !== wanted) return `it is ${is}`;
  const requires = header.relations.requires.map(relationText);
  const missing = plan.requires.find((each) => !requires.includes(each));
  if (missing !== undefined) return `it does not require ${missing}`;
  const digests = new Map(header.files.map((each) => [each.path, each.sha256]));
  const changed = plan.files.find((each) => digests.get(each.path) !== each.sha256);
  if (changed !== undefined) return `${changed.path} has different content`;
  const linked = new Map(files.map((each) => [each.path, each.target]));
  const lost = plan.links.find((each) => linked.get(each.path) !== each.target);
  if (lost !== undefined) return `${lost.path} does not lead to ${lost.target}`;
  const folders = new Map(header.files.map((each) => [each.path, each]));
  const other = plan.folders.find(({ path: at, mode }) => {
    const found = folders.get(at);
    return found?.type !== 'dir' || (found.mode & 0o7777) !== mode;
  });
  if (other !== undefined) return `${other.path} is no folder of mode ${other.mode.toString(8)}`;
  const planned = new Set([...plan.files, ...plan.links].map((each) => each.path));
  const extra = files.find((each) => !planned.has(each.path));
  return extra === undefined ? null : `it holds ${extra.path}`;
}
