import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseInstalled } from '../distro/dkms-package.js';
import type { ModuleReport } from '../guest/programs/build.js';
import type { CollectedModule } from '../guest/programs/collect.js';
import { packageForm, type PackageForm } from '../distro/row.js';
import { shown } from '../pack/hazards.js';
import type { PackInput, SourcePackage } from '../pack/module-package.js';
import { carriedRelations, carriedRpmRelations } from '../pack/relations.js';
import { isRpmPath, isRpmTarget } from '../pack/rpm.js';
import type { ReadPackage } from './source-reading.js';
import type { Built, CellInput } from './types.js';

/** Of a cell's packages what follows from this host's reading of the source. */
export interface PackageContent extends Pick<
  PackInput,
  'extras' | 'links' | 'folders' | 'sourcePackage' | 'dependsModules'
> {
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
  const own = { dependsModules: depends, notes };
  if (serves) return { extras: [], links: [], folders: [], sourcePackage: null, ...own };
  const { files, left } = filesOf(reading, packageForm(input.lookup.row));
  // The files are the source package's as a whole, and so is what is to be said of it.
  const first = reports.find((each) => !each.dependency);
  const tells = first?.name === name && first.version === version;
  const say = (...lines: string[]): void => void (tells && notes.push(...lines));
  say(...reading.hazards, ...reading.overlaps);
  const source = reading.package && (await sourceOf(input, reading.package, say));
  if (left.length > 0) say(`Not packed, of the source package: ${listOf(left)}`);
  say(...reading.notCarried.map((line) => `Not carried: ${line}`));
  const leader = { name: first?.name ?? name, version: first?.version ?? version };
  const { notCarried, overlaps } = reading;
  return { ...files, sourcePackage: source && { ...source, leader, notCarried, overlaps }, ...own };
}

/** What is packed in a form of packages, and what is not. */
function filesOf({ extras, links, folders, left }: Built['reading'], form: PackageForm) {
  if (form === 'deb') return { files: { extras, links, folders }, left };
  const fits = ({ path }: { path: string }): boolean => isRpmPath(path);
  return {
    files: {
      extras: extras.filter(fits),
      links: links.filter((each) => fits(each) && isRpmTarget(each.target)),
      folders: folders.filter(fits),
    },
    left: [
      ...left,
      ...[...extras, ...links].filter((each) => !fits(each)).map(({ path }) => path),
      ...folders.filter((each) => !fits(each)).map(({ path }) => `${path}/`),
    ],
  };
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

/** The package whose place ours take, with what it is related to. `say` tells what cannot be kept. */
async function sourceOf(
  { environment, target, lookup }: CellInput,
  { name, version, relations: read }: ReadPackage,
  say: (...lines: string[]) => void,
): Promise<SourcePackage> {
  const text = await readFile(join(environment.layer.entry.dir, 'packages'), 'utf8');
  const installed = new Set(parseInstalled(text, target.arch).map((each) => each.name));
  const ofDistro = installed.has(name);
  if (ofDistro)
    say(
      `The source package is called ${name}, as a package of the distro's own image is: its place is not taken (no Conflicts, no Replaces)`,
    );
  const source = { name, version, ...(ofDistro && { ofDistro }) };
  const isDeb = packageForm(lookup.row) === 'deb';
  if ((read.form === 'deb') !== isDeb) {
    const other = read.form === 'deb' ? 'a .deb' : 'an .rpm';
    say(`The source package is ${other}: which other packages it needs or replaces is not carried over`);
    return source;
  }
  const sorting = {
    isOfDistro: (each: string) => installed.has(each),
    isOwn: (each: string) => /-(?:modules|kmod|kmp)(?:-|$)/.test(each),
  };
  const { relations, dropped } =
    read.form === 'deb' ? carriedRelations(read.control, sorting) : carriedRpmRelations(read.header, sorting);
  if (dropped.length > 0) say(`Relations of the source package that are not kept: ${listOf(dropped)}`);
  return { ...source, relations };
}

const MAX_LISTED = 10;
const MAX_TEXT = 700;

function listOf(names: readonly string[]): string {
  const more = names.length - MAX_LISTED;
  const listed = names.slice(0, MAX_LISTED).map(shown).join(', ').slice(0, MAX_TEXT);
  return more > 0 ? `${listed} and ${more} more` : listed;
}
