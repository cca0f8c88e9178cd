import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { kernelPackages } from '../distro/packages.js';
import { packageBaseName } from '../distro/package-names.js';
import { packageForm } from '../distro/row.js';
import { readModule } from '../formats/elf.js';
import type { ModuleReport } from '../guest/programs/build.js';
import type { Collected, CollectedModule } from '../guest/programs/collect.js';
import { DEB_ARCH, type CellResult, type Verdict } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { compressModule, moduleCompression } from '../pack/compress.js';
import { MAINTAINER } from '../pack/deb.js';
import { hasDebugInfo, MAX_DEBUG_BYTES, pairDebugSymbols } from '../pack/debug-symbols.js';
import { packModules, type PackedPackage, type PackInput } from '../pack/module-package.js';
import { signatureHash, type Signer } from '../pack/sign.js';
import { missingTools } from './missing-command.js';
import { contentOf } from './package-content.js';
import { packRpms } from './pack-rpm.js';
import { EPOCH } from './source.js';
import type { Built, CellInput, CellModule, Compiled, Opened, Packaged, PackedModule } from './types.js';

/** Packs what was built, in the run's folder; a module that cannot be packed has failed. */
export async function pack(cell: Compiled): Promise<Packaged> {
  const stage = join(cell.run.dir, 'stage');
  await mkdir(stage, { recursive: true });
  const modules: CellModule[] = [];
  for (const report of cell.built.reports) modules.push(await packReported(cell, rowOf(cell, report), stage));
  return { ...cell, modules };
}

const FAULT: Record<Verdict, CellResult['fault']> = {
  built: null,
  skipped: null,
  failed: 'module',
  error: 'transient',
};

/** A module as its build left it. */
function rowOf(cell: Compiled, report: ModuleReport): CellModule {
  const { input, built, prepared, run, phases } = cell;
  const { name, version, verdict } = report;
  const { release, distro, arch } = input.target;
  const log = built.collected.modules.find((each) => each.name === name && each.version === version)?.log;
  const ownedByOtherCell = report.dependency && prepared.brings.includes(name);
  return {
    report,
    result: {
      module: name,
      version,
      kernel: release,
      distro,
      arch,
      verdict,
      reason: verdict === 'built' ? null : reasonOf(report, log ?? null),
      package: null,
      log: log && !ownedByOtherCell ? join(input.outDir, `${baseName(input, report)}.log`) : null,
      phases,
      kept: run.record.kept ? run.record.id : null,
      fault: report.lacks ? 'not-found' : FAULT[verdict],
    },
    ownedByOtherCell,
    log: log ?? null,
    packed: null,
  };
}

/** Why a module was not built, with what the build VM lacked. */
function reasonOf({ verdict, reason, firstError }: ModuleReport, log: Buffer | null): string | null {
  const why = reason || firstError || null;
  const missing = verdict === 'failed' && log ? missingTools(log.toString('utf8'), why ?? '') : null;
  return [why, missing].filter((each) => each !== null).join('; ') || null;
}

const baseName = ({ target, nameStyle, lookup }: CellInput, { name, version }: ModuleReport): string =>
  packageBaseName(
    { module: name, version, release: target.release, arch: target.arch },
    nameStyle,
    packageForm(lookup.row),
  );

async function packReported(cell: Compiled, module: CellModule, stage: string): Promise<CellModule> {
  const { input, built, phase } = cell;
  const { report, ownedByOtherCell } = module;
  if (report.verdict !== 'built' || (ownedByOtherCell && !input.verify)) return module;
  try {
    const found = collectedOf(built.collected, report);
    const packages = await phase('pack', () =>
      packModule(cell, module, { built, signer: input.signer, outDir: stage }),
    );
    const packed = packedOf(packages, found);
    if (ownedByOtherCell) return { ...module, packed };
    if (input.debugSymbols) await noteMissingSymbols(input, found);
    const { notes } = await contentOf(input, built, found, false);
    const { leftOut } = report;
    return told(input, { ...module, packed }, leftOut === undefined ? notes : [...notes, leftOut]);
  } catch (error) {
    if (!(error instanceof Dkms2binError)) throw error;
    const result: CellResult = {
      ...module.result,
      verdict: 'failed',
      fault: 'module',
      reason: error.message,
    };
    return { ...module, result };
  }
}

/** A module with what its user should know: in the result, in the log and as notes. */
function told({ machine, label }: CellInput, module: CellModule, notes: readonly string[]): CellModule {
  if (notes.length === 0) return module;
  for (const message of notes) machine.emit({ type: 'note', level: 'warn', message, cell: label });
  const lines = notes.map((note) => `dkms2bin: ${note}\n`).join('');
  return {
    ...module,
    result: { ...module.result, notes: [...notes] },
    log: module.log && Buffer.concat([module.log, Buffer.from(`\n${lines}`)]),
  };
}

function packedOf(packages: readonly PackedPackage[], { ko }: CollectedModule): PackedModule {
  const main = packages.find(({ role }) => role === 'modules');
  if (!main) throw new Error('a package without modules was packed');
  return {
    packages,
    main: main.path,
    koNames: ko.map(({ name }) => name.replace(/\.ko$/, '')),
    needs: ko.flatMap(({ bytes }) => readModule(bytes).depends),
  };
}

/** Packs what a build, this one or another of the same cell, made of a module. */
export async function packModule(
  { input, verifyVm }: Opened,
  { report, ownedByOtherCell }: Pick<CellModule, 'report' | 'ownedByOtherCell'>,
  { built, signer, outDir }: { built: Built; signer: Signer | null; outDir: string },
): Promise<PackedPackage[]> {
  const { target, lookup } = input;
  const form = packageForm(lookup.row);
  const found = collectedOf(built.collected, report);
  const { ko, debug } = found;
  const { notes: _, ...own } = await contentOf(input, built, found, ownedByOtherCell);
  const content = {
    module: report.name,
    version: report.version,
    release: target.release,
    modules: await finishModules(input, ko, ownedByOtherCell ? [] : debug, signer),
    ...own,
    maintainer: MAINTAINER,
    mtime: EPOCH,
    outDir,
  };
  if (form !== 'deb') {
    return packRpms({ ...content, arch: target.arch, form }, await verifyVm.start(), input);
  }
  return packModules({
    ...content,
    debArch: DEB_ARCH[target.arch],
    kernelImages: kernelPackages(lookup.row, target.release).image,
    fileName: `${baseName(input, report)}.deb`,
  });
}

function collectedOf({ modules }: Collected, { name, version }: ModuleReport): CollectedModule {
  const found = modules.find((each) => each.name === name && each.version === version);
  if (!found) throw new Dkms2binError('module', `${name}: the guest sent no module files`);
  if (!found.log) throw new Dkms2binError('module', `${name}: the guest sent no log of its build`);
  return found;
}

/** The modules as they are shipped: signed on this host, after the build VM is gone, then compressed as the kernel's own are. */
async function finishModules(
  { environment, machine }: CellInput,
  modules: CollectedModule['ko'],
  debugFiles: CollectedModule['debug'],
  signer: Signer | null,
): Promise<PackInput['modules']> {
  const config = await readFile(environment.layer.config, 'utf8');
  const symbols = pairDebugSymbols(modules, debugFiles);
  return Promise.all(
    modules.map(async ({ name, bytes }) => {
      const signed = signer ? await signer.sign(bytes, signatureHash(config)) : bytes;
      const packed = await compressModule(signed, moduleCompression(config), machine.signal);
      const debug = symbols.get(name);
      return { name, bytes: signed, ...(packed && { packed }), ...(debug && { debug }) };
    }),
  );
}

/** Says of each module that got no debug symbols why. */
async function noteMissingSymbols(
  { environment, label, machine }: CellInput,
  { ko, debug, debugTooLarge }: CollectedModule,
): Promise<void> {
  const config = await readFile(environment.layer.config, 'utf8');
  const symbols = pairDebugSymbols(ko, debug);
  const whyOf = (bytes: Buffer): string => {
    if (hasDebugInfo(bytes)) return 'it keeps them itself, as its dkms.conf asks (STRIP=no)';
    if (!/^CONFIG_DEBUG_INFO=y$/m.test(config)) {
      return 'the kernel is configured without debug information (CONFIG_DEBUG_INFO)';
    }
    return debugTooLarge ? `they are larger than ${MAX_DEBUG_BYTES / 2 ** 20} MiB` : 'its build made none';
  };
  for (const { name, bytes } of ko) {
    if (symbols.has(name)) continue;
    machine.emit({
      type: 'note',
      level: hasDebugInfo(bytes) ? 'info' : 'warn',
      message: `No package of debug symbols for ${name}: ${whyOf(bytes)}`,
      cell: label,
    });
  }
}
