import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseInstalled } from '../distro/dkms-package.js';
import type { ModuleReport } from '../guest/programs/build.js';
import type { CollectedModule } from '../guest/programs/collect.js';
import { shown } from '../pack/hazards.js';
import type { PackInput } from '../pack/module-package.js';
import type { Built, CellInput } from './types.js';

/** Of a cell's packages what follows from this host's reading of the source. */
export interface PackageContent extends Pick<PackInput, 'extras' | 'sourcePackage' | 'dependsModules'> {
  /** For whoever installs them, a line each. */
  notes: string[];
}

/** The content for one module; `serves` is one whose own cell packs it: here it is only there for other modules. */
export async function contentOf(
  input: CellInput,
  { reports, reading }: Built,
  { name, version, buildDepends }: CollectedModule,
  serves: boolean,
): Promise<PackageContent> {
  const { depends, notes } = dependsOf(reading, reports, buildDepends);
  // The files are the source package's as a whole: its first module carries them.
  const first = reports.find((each) => !each.dependency);
  const carries = !serves && first?.name === name && first.version === version;
  const source = serves || !reading.package ? null : await ownName(input, reading.package);
  if (carries) {
    notes.push(...reading.hazards);
    if (source?.ofDistro)
      notes.push(
        `The source package is called ${source.name}, as a package of the distro's own image is: its place is not taken (no Conflicts, no Replaces)`,
      );
    if (reading.left.length > 0) notes.push(`Not packed, of the source package: ${listOf(reading.left)}`);
  }
  return { extras: carries ? reading.extras : [], sourcePackage: source, dependsModules: depends, notes };
}

/** Which modules one needs: what the build says and the source says, too. */
function dependsOf(
  { conf }: Built['reading'],
  reports: readonly ModuleReport[],
  said: readonly string[],
): { depends: string[]; notes: string[] } {
  const built = conf.plain ? [] : reports.filter((each) => each.dependency).map(({ name }) => name);
  const known = new Set([...conf.needs, ...built]);
  const depends = said.filter((each) => known.has(each));
  const strange = said.filter((each) => !known.has(each));
  if (strange.length === 0) return { depends, notes: [] };
  return {
    depends,
    notes: [
      `The build names modules that its source does not need; no package depends on them: ${listOf(strange)}`,
    ],
  };
}

/** Whether every machine of the distro has a package of that name. */
async function ownName(
  { environment, target }: CellInput,
  source: NonNullable<Built['reading']['package']>,
): Promise<NonNullable<PackInput['sourcePackage']>> {
  const text = await readFile(join(environment.layer.entry.dir, 'packages'), 'utf8');
  const ofDistro = parseInstalled(text, target.arch).some(({ name }) => name === source.name);
  return { ...source, ...(ofDistro && { ofDistro }) };
}

const MAX_LISTED = 10;
const MAX_TEXT = 700;

function listOf(names: readonly string[]): string {
  const more = names.length - MAX_LISTED;
  const listed = names.slice(0, MAX_LISTED).map(shown).join(', ').slice(0, MAX_TEXT);
  return more > 0 ? `${listed} and ${more} more` : listed;
}
