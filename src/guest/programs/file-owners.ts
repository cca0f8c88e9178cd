import type { PackageForm } from '../../distro/row.js';
import { PackageName } from '../../model/forms.js';
import { GUEST_DIR, type Guest } from '../guest.js';

export interface OwnedFile {
  path: string;
  /** The installed package that has a file, or a folder, of that name. */
  package: string;
}

const LIST = `${GUEST_DIR}/paths`;
/**
 * Prints `FILE:PATH` of the lists that have a path, or `PACKAGE<tab>PATH`. All lists at once: a process for each path would take seconds of
 * emulation.
 * @internal
 */
export const OWNERS = {
  deb: `LC_ALL=C grep -HxFf ${LIST} /var/lib/dpkg/info/*.list || [ $? -eq 1 ]`,
  rpm: `rpm -qa --qf '[%{=NAME}\\t%{FILENAMES}\\n]' | awk -F '\\t' 'NR == FNR { asked[$0]; next } $2 in asked' ${LIST} -`,
};
const FOUND = /^(?:\/.*\/([^/]+)\.list:|([^\t]+)\t)(\/.*)$/;

/** Where /bin is a link to /usr/bin, a package's list may have either. */
const spellingsOf = (path: string): string[] => {
  const [, rest] = /^(?:\/usr)?(\/(?:bin|sbin|lib|lib32|lib64|libx32)\/.*)$/.exec(path) ?? [];
  return rest === undefined ? [path] : [rest, `/usr${rest}`];
};

/** Which of `paths` are of packages that are installed in the guest, by its package manager's lists: nothing else may have run there. */
export async function fileOwners(
  guest: Guest,
  paths: readonly string[],
  form: PackageForm,
): Promise<OwnedFile[]> {
  const asked = new Map(paths.flatMap((path) => spellingsOf(path).map((each) => [each, path])));
  if (asked.size === 0) return [];
  await guest.put({ bytes: Buffer.from([...asked.keys()].map((path) => `${path}\n`).join('')) }, LIST);
  const said = await guest.text(OWNERS[form === 'deb' ? 'deb' : 'rpm']);
  const found = new Map<string, OwnedFile>();
  for (const line of said.split('\n')) {
    const [, inList, inDatabase, spelling = ''] = FOUND.exec(line) ?? [];
    const path = asked.get(spelling);
    const name = PackageName.safeParse((inList ?? inDatabase ?? '').replace(/:[a-z0-9-]+$/, ''));
    if (path === undefined || !name.success) continue;
    found.set(`${path} ${name.data}`, { path, package: name.data });
  }
  return [...found.values()];
}
