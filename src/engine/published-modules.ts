import { lstat, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { DEB_ARCH, type Arch, type CellResult } from '../model/cell.js';
import type { Emit } from '../model/events.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { provenancePath, readBundle, type BuiltCell } from '../attest/provenance.js';
import type { PublishedModule, RefreshPlan, TriedCell } from './plan/refresh.js';
import { ENROLS } from '../pack/deb.js';
import { rpmEnrols } from '../pack/enrolment.js';
import { followingOf } from '../pack/metapackage.js';
import { rpmFollowingOf } from '../pack/rpm-metapackage.js';
import { scan, type DebFile, type PackageFile } from '../repo/package-files.js';

/**
 * The modules of the packages in a folder, as the packages' provenance tells. A package whose provenance cannot be used is
 * passed over, and told with what to do. Throws `not-found` when no package is left.
 */
export async function readPublished(
  outDir: string,
  { emit, signal }: { emit: Emit; signal: AbortSignal },
): Promise<PublishedModule[]> {
  const { packages, leftOut } = await scan(outDir, signal);
  const warn = (message: string): void => emit({ type: 'note', level: 'warn', message });
  for (const { path, reason } of leftOut) warn(`${path} is ignored: ${reason}`);
  const { published, unknown } = await modulesOfPackages(outDir, packages);
  const more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : '';
  const list = `${unknown.slice(0, 5).join(', ')}${more}`;
  if (published.length > 0) {
    if (unknown.length > 0) warn(`Ignored for lack of provenance: ${list}. ${AGAIN}`);
    return published;
  }
  if (unknown.length === 0) {
    throw new Dkms2binError('not-found', `No package in ${outDir}`, {
      hint: 'Build the first packages with dkms2bin build.',
    });
  }
  throw new Dkms2binError(
    'not-found',
    `No package in ${outDir} has provenance that says what it was made from: ${list}`,
    { hint: AGAIN },
  );
}

/** The modules of packages in a folder, and the packages whose provenance does not tell, with why. */
export async function modulesOfPackages(
  outDir: string,
  packages: readonly PackageFile[],
): Promise<{ published: PublishedModule[]; unknown: string[] }> {
  const published: PublishedModule[] = [];
  const unknown: string[] = [];
  for (const each of packages) {
    // What follows a kernel is made anew from the others, and a certificate is no module.
    if (each.format === 'deb' && (followingOf(each.header.fields) || enrols(each))) continue;
    if (each.format === 'rpm' && (rpmFollowingOf(each.header) || rpmEnrols(each.header))) continue;
    const read = await modulesOf(join(outDir, each.path), each.sha256);
    if ('why' in read) unknown.push(`${each.path} (${read.why})`);
    else published.push(...read.modules);
  }
  return { published, unknown };
}

const enrols = ({ header }: DebFile): boolean =>
  header.fields.some(({ key }) => key === ENROLS.toLowerCase());

const AGAIN =
  'Run the dkms2bin build that made the packages again: it writes provenance that is missing, without a VM as long as a package is unchanged.';

/** What is in a package, by the provenance beside it, or why that does not tell. */
async function modulesOf(
  path: string,
  sha256: string,
): Promise<{ modules: PublishedModule[] } | { why: string }> {
  const file = provenancePath(path);
  if (!(await lstat(file).catch(() => null))) return { why: `no ${basename(file)}` };
  let statements;
  try {
    statements = await readBundle(file);
  } catch (error) {
    if (!(error instanceof Dkms2binError)) throw error;
    return { why: error.message };
  }
  const about = statements.flatMap(({ subject, cell }) => {
    const name = subject.find(({ digest }) => digest.sha256 === sha256)?.name;
    // A package without modules is one of files that modules share.
    const brings = subject.some((each) => each.name.startsWith(`${name}/`));
    return name !== undefined && cell ? [brings ? [publishedModule(cell)] : []] : [];
  });
  if (about.length > 0) return { modules: about.flat() };
  return { why: `${basename(file)} describes another file, or was not made by dkms2bin` };
}

function publishedModule({ module, arch, sourcePackage: _, ...rest }: BuiltCell): PublishedModule {
  return { ...rest, module: module.name, version: module.version, arch: arch as Arch };
}

/** Hidden, so that it is no part of the repository. */
const triedPath = (outDir: string): string => join(outDir, '.dkms2bin-refresh.json');

const TRIED = z.object({
  schemaVersion: z.literal(1),
  tried: z.array(
    z.object({
      ...{ module: z.string(), kernel: z.string(), packageVersion: z.string(), distro: z.string() },
      arch: z.enum(Object.keys(DEB_ARCH) as [Arch, ...Arch[]]),
      ...{ digest: z.string(), verdict: z.enum(['built', 'skipped', 'failed']), reason: z.string() },
    }),
  ),
});

export async function readTried(outDir: string, emit: Emit): Promise<TriedCell[]> {
  try {
    return TRIED.parse(JSON.parse(await readFile(triedPath(outDir), 'utf8'))).tried;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    const message = `${triedPath(outDir)} is not used: ${messageOf(error).split('\n')[0] ?? ''}`;
    emit({ type: 'note', level: 'warn', message });
    return [];
  }
}

/** Remembers what a plan's cells came to. Nothing is written when there is nothing to remember or forget. */
export async function writeTried(
  outDir: string,
  plan: Pick<RefreshPlan, 'wanted' | 'tried'>,
  results: readonly CellResult[],
): Promise<void> {
  const now = plan.wanted.flatMap(({ modules, source, kernel, distro, arch, digest }) =>
    modules.map((module) => {
      const its = results.filter(
        (r) => r.kernel === kernel.release && r.distro === distro && r.arch === arch,
      );
      // A source that gave no report of its modules has one row of its own name.
      const result = its.find((r) => r.module === module) ?? its.find((r) => r.module === source.text);
      return {
        ...{ module, kernel: kernel.release, packageVersion: kernel.packageVersion, distro, arch, digest },
        verdict: result?.verdict ?? 'skipped',
        reason: result
          ? (/^.{0,500}/.exec(result.reason ?? '')?.[0] ?? '')
          : 'its source no longer contains it',
      };
    }),
  );
  const same = (a: Omit<TriedCell, 'verdict'>, b: Omit<TriedCell, 'verdict'>): boolean =>
    a.module === b.module && a.kernel === b.kernel && a.distro === b.distro && a.arch === b.arch;
  const tried = [
    ...plan.tried.filter((old) => !now.some((each) => same(old, each))),
    ...now.filter(
      ({ verdict, reason }) =>
        verdict === 'skipped' || verdict === 'failed' || (verdict === 'built' && reason === 'up to date'),
    ),
  ];
  if (tried.length === 0 && plan.tried.length === 0) return;
  await writeAtomic(
    Buffer.from(`${JSON.stringify({ schemaVersion: 1, tried }, null, 2)}\n`),
    triedPath(outDir),
  );
}
