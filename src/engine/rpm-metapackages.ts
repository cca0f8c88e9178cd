import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { EPOCH } from '../cell/source.js';
import type { MetaEntry } from '../distro/kernel-index.js';
import { kernelPackages, packageSetOf } from '../distro/packages.js';
import { rpmMetaName, rpmVersion, type RpmForm } from '../distro/rpm-names.js';
import { packageForm, type DistroRow } from '../distro/row.js';
import { compareReleases, compareRpmVersions } from '../formats/versions.js';
import { writeAtomic } from '../lib/atomic-write.js';
import type { Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import {
  makeRpmMetapackage,
  replacedRpm,
  rpmFollowingOf,
  type RpmFollowing,
} from '../pack/rpm-metapackage.js';
import type { PackageFile } from '../repo/package-files.js';
import type { HeldKernel } from './plan/metapackages.js';
import type { PublishedModule } from './plan/refresh.js';

/** A module for the kernels of one image package, oldest first. */
interface Line {
  form: RpmForm;
  module: string;
  image: string;
  distro: string;
  arch: Arch;
  kernels: RpmFollowing[];
}

export interface RpmMetapackage {
  name: string;
  module: string;
  image: string;
  distro: string;
  /** The newest kernel that it brings. */
  kernel: string;
  /** The distro's newest kernel, which there is no module for. */
  waitsFor: HeldKernel | null;
}

interface Inputs {
  /** Modules for distros with dnf or zypper. */
  published: readonly PublishedModule[];
  packages: readonly PackageFile[];
  rows: ReadonlyMap<string, DistroRow>;
  /** The newest package of each name; a distro that could not be asked is missing. */
  offers: readonly { distro: string; arch: Arch; metas: readonly MetaEntry[] }[];
  hold: boolean;
  emit: Emit;
}

/**
 * Puts the metapackages for dnf and zypper right: of each module one for each image package of its distro, in a version for each kernel. Those of
 * kernels whose module's package is gone go as well.
 */
export async function updateRpmMetapackages(outDir: string, inputs: Inputs): Promise<RpmMetapackage[]> {
  const { published, packages, offers, hold } = inputs;
  for (const each of packages) {
    const old = each.format === 'rpm' ? rpmFollowingOf(each.header) : undefined;
    const there = published.some(({ module, kernel }) => module === old?.module && kernel === old.release);
    if (old && !there) await rm(join(outDir, each.path), { force: true });
  }
  const results: RpmMetapackage[] = [];
  for (const { form, module, image, distro, arch, kernels } of linesOf(inputs)) {
    for (const each of kernels) {
      const { file, bytes } = makeRpmMetapackage(each, { hold, mtime: EPOCH });
      await writeAtomic(bytes, join(outDir, file));
    }
    const kernel = kernels.at(-1)?.release ?? '';
    const offer = offers.find((each) => each.distro === distro && each.arch === arch);
    const newest = offer?.metas.find((each) => each.name === image);
    const waitsFor =
      newest && compareReleases(newest.release, kernel) > 0
        ? { meta: image, release: newest.release, packageVersion: newest.packageVersion }
        : null;
    results.push({ name: rpmMetaName(module, image, form), module, image, distro, kernel, waitsFor });
  }
  return results;
}

function linesOf({ published, packages, rows, emit }: Inputs): Line[] {
  const lines = new Map<string, Line>();
  const mixed = new Set<string>();
  for (const { module, version, kernel: release, distro, arch } of published) {
    const row = rows.get(distro);
    const form = row && packageForm(row);
    const image = row && imageOf(row, release);
    if (form === undefined || form === 'deb' || image === undefined) continue;
    const key = [module, image, arch].join(' ');
    const line = lines.get(key) ?? { form, module, image, distro, arch, kernels: [] };
    lines.set(key, line);
    if (line.distro !== distro) mixed.add(key);
    line.kernels.push({ form, module, moduleVersion: version, arch, image, release, replaced: [] });
  }
  for (const key of mixed) {
    const line = lines.get(key);
    if (!line) continue;
    const { module, image, form } = line;
    const message = `No ${rpmMetaName(module, image, form)} is made: the folder has ${module} for the kernels of several distros. Give each distro with .rpm packages a folder of its own.`;
    emit({ type: 'note', level: 'warn', message });
    lines.delete(key);
  }
  return [...lines.values()].map((line) => ({ ...line, kernels: newestOf(line.kernels, packages) }));
}

/** Of each kernel the newest version of the module, which takes the place of the others and of what its metapackages replaced before. */
function newestOf(all: readonly RpmFollowing[], packages: readonly PackageFile[]): RpmFollowing[] {
  const sorted = [...all].sort(
    (a, b) =>
      compareReleases(a.release, b.release) ||
      compareRpmVersions(rpmVersion(a.moduleVersion), rpmVersion(b.moduleVersion)),
  );
  return sorted.flatMap((each, at) => {
    if (sorted[at + 1]?.release === each.release) return [];
    const older = sorted.filter((other) => other.release === each.release).map(replacedRpm);
    const before = packages.flatMap((file) => {
      const old = file.format === 'rpm' ? rpmFollowingOf(file.header) : undefined;
      return old?.module === each.module && old.release === each.release ? old.replaced : [];
    });
    const own = replacedRpm(each);
    return [{ ...each, replaced: [...new Set([...older, ...before])].filter((text) => text !== own).sort() }];
  });
}

/** The package of a kernel's image; undefined for a variant that the catalogue does not know. */
function imageOf(row: DistroRow, release: string): string | undefined {
  try {
    // zypper's are called after the flavour, dnf's are given with a version.
    if (packageForm(row) === 'kmp') return kernelPackages(row, release).image[0];
    return packageSetOf(row, release).set.image[0];
  } catch (error) {
    if (error instanceof Dkms2binError) return undefined;
    throw error;
  }
}
