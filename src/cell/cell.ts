import { mkdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { CONSOLE, DEB_ARCH, type CellResult, type KernelTarget, type ModuleSource } from '../model/cell.js';
import type { Emit } from '../model/events.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { frameJson, FrameReader } from '../guest/frames.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { kernelPackages } from '../distro/packages.js';
import { packageForm, type DistroRow } from '../distro/row.js';
import { GUEST_DIR, type Guest, type GuestOutput } from '../guest/guest.js';
import { compressModule, moduleCompression } from '../pack/compress.js';
import { hasDebugInfo, MAX_DEBUG_BYTES, MAX_DEBUG_TOTAL, pairDebugSymbols } from '../pack/debug-symbols.js';
import { readModule } from '../formats/elf.js';
import { isExtraPath, packModules, type PackedPackage, type PackInput } from '../pack/module-package.js';
import { signatureHash, type Signer } from '../pack/sign.js';
import { checkModuleName, checkModuleVersion, packageBaseName } from '../distro/package-names.js';
import { attest, type Invocation } from './attest.js';
import { deadline, openSsh, specOf, type Booted, type Machine } from '../environment/boot.js';
import { cellIdentity, remember, upToDate, type BuiltRecord } from './finished.js';
import { checkReproducible } from './rebuild.js';
import { packRpms } from './pack-rpm.js';
import { RunDir } from './run-dir.js';
import { bootOn, type KernelEnvironment } from '../environment/snapshot.js';
import { EPOCH, folderTar, prepareSource, rpmTar, type Lookup, type Prepared } from './source.js';

export interface CellInput {
  /** What to call the cell in messages. */
  label: string;
  source: ModuleSource;
  /** All sources of the request: they may bring what this one's BUILD_DEPENDS name. */
  otherSources: readonly ModuleSource[];
  target: KernelTarget;
  environment: KernelEnvironment;
  lookup: Lookup;
  machine: Machine;
  outDir: string;
  /** Signs the modules; null: they stay as they were built. */
  signer: Signer | null;
  invocation: Invocation;
  nameStyle: 'seed' | 'dkms';
  verify: boolean;
  /** Packs what dkms strips from the modules into a package of its own. */
  debugSymbols: boolean;
  /** Builds twice; what does not come out the same has failed. */
  checkReproducible: boolean;
  force: boolean;
  debug: boolean;
  keepFailed: boolean;
  timeoutMs: number;
  /** Called while the VM of a failed build still runs, when it will be kept. */
  onFailure?: (run: RunDir) => Promise<void>;
}

/** What collect.py tells of the build; every name in it is the guest's word and is checked before use. */
const COLLECTED = z.object({
  modules: z.array(
    z.object({
      name: z.string(),
      version: z.string(),
      verdict: z.string().optional(),
      ko: z.array(z.object({ dest: z.string(), blob: z.number().int() })),
      debug: z.array(z.object({ file: z.string(), blob: z.number().int() })).default([]),
      debugTooLarge: z.boolean().default(false),
      dependency: z.boolean().default(false),
      log: z.number().int().nullish(),
      buildDepends: z.array(z.string()).default([]),
    }),
  ),
  extras: z.array(z.object({ path: z.string(), mode: z.number().int(), blob: z.number().int() })),
  sourcePackage: z.string().nullish(),
  sourceVersion: z.string().nullish(),
});

export interface ModuleReport {
  name: string;
  version: string;
  verdict: 'built' | 'skipped' | 'failed' | 'error';
  reason: string;
  firstError?: string;
  seconds?: number;
  /** Built only because another module needs it. */
  dependency: boolean;
}

/** What a build VM made. */
export interface Built {
  reports: ModuleReport[];
  collected: Collected;
}

/** What of a build's surroundings must not show in its result. */
export interface BuildConditions {
  boot: (dir: string) => Promise<Booted>;
  /** For make. */
  jobs: number;
  /** Changes the guest when it needs the network no more and before the package's own code runs. */
  disguise?: (guest: Guest) => Promise<void>;
}

/** What an earlier run made of the very same input, when it is still in the out-dir; null for what has to be built. */
export async function builtBefore(input: CellInput): Promise<CellResult[] | null> {
  if (input.force || input.debug) return null;
  const { source, otherSources, environment, lookup, machine } = input;
  const prepared = await prepareSource(source, otherSources, environment.layer, lookup, machine);
  return upToDate(input, cellIdentity(input, prepared));
}

/** Builds one cell from source to published package; a package with several modules gives several results. */
export async function buildCell(input: CellInput): Promise<CellResult[]> {
  const startedOn = new Date();
  const phases: Record<string, number> = {};
  const phase = phaseTimer(phases, input.machine.emit, input.label);
  const prepared = await phase('prepare', () =>
    prepareSource(input.source, input.otherSources, input.environment.layer, input.lookup, input.machine),
  );
  const known = await upToDate(input, cellIdentity(input, prepared));
  if (known) return known;

  const run = await RunDir.create({
    cell: input.label,
    kernel: input.target.release,
    distro: input.target.distro,
  });
  try {
    return await buildInRun(input, prepared, run, phases, phase, startedOn);
  } finally {
    await run.close();
  }
}

async function buildInRun(
  input: CellInput,
  prepared: Prepared,
  run: RunDir,
  phases: Record<string, number>,
  phase: Phase,
  startedOn: Date,
): Promise<CellResult[]> {
  const { environment, machine } = input;
  await using verifyVm = new PrebootedVm(() => bootOn(environment, false, join(run.dir, 'verify'), machine));
  const usual: BuildConditions = {
    boot: (dir) => bootOn(environment, prepared.network, dir, machine),
    jobs: Math.max(1, Math.min(machine.cpus, Math.floor(machine.memoryMiB / 1024))),
  };
  // The verify VM boots while the build VM hands over what it made.
  const built = await buildInVm(input, prepared, run, usual, phase, ({ verdict }) => {
    if (input.verify && verdict === 'built') void verifyVm.start();
  });
  for (const { seconds } of built.reports) {
    if (seconds !== undefined) phases.build = (phases.build ?? 0) + seconds;
  }
  return await finish(input, run, built, usual, phases, phase, prepared, verifyVm, startedOn);
}

/** Boots a build VM, runs the package's build in it and takes what it made. `onReport` hears how each module ended before that. */
async function buildInVm(
  input: CellInput,
  prepared: Prepared,
  run: RunDir,
  { boot, jobs, disguise }: BuildConditions,
  phase: Phase,
  onReport: (report: ModuleReport) => void = () => undefined,
): Promise<Built> {
  const { target, environment, machine } = input;
  const line = (text: string): void => machine.emit({ type: 'output', cell: input.label, line: text });
  // A kept disk is booted again for a login.
  const spec = specOf(machine, environment.layer.boot, true, 'ssh');
  let reports: ModuleReport[];
  let collected: Collected;
  await using booted = await phase('boot', () => boot(run.dir));
  const { vm, guest } = booted;
  await run.save({ live: { socketDir: vm.socketDir, sshPort: vm.sshPort }, vm: { ...spec } });
  try {
    if (input.debug) await keepable(input, run, guest);
    const vars = await phase('fetch', () => pushSource(guest, prepared, input.lookup.row, machine, line));
    // From here on the package's own code runs: nothing but the management NIC is left to it.
    await vm.cutEgress();
    await disguise?.(guest);
    const result = await phase('dkms', () =>
      guest.script(
        'build.sh',
        {
          ...vars,
          RELEASE: target.release,
          JOBS: jobs,
          EPOCH,
          KEEP: input.debug || input.keepFailed ? 1 : '',
          DEBUG_SYMBOLS: input.debugSymbols ? 1 : '',
        },
        { timeoutMs: input.timeoutMs, onLine: line },
      ),
    );
    reports = readReports(result.reports);
    if (reports.length === 0) {
      const why =
        result.reports.find((r) => r.key === 'error')?.value ?? result.tail.split('\n').slice(-3).join('\n');
      throw new Dkms2binError(
        result.code === 3 || result.code === 7 ? 'module' : result.code === 2 ? 'usage' : 'transient',
        `${input.label}: ${why}`,
      );
    }
    reports.forEach(onReport);
    collected = await phase('collect', () => collect(guest, machine));
  } catch (error) {
    await keepIfAsked(input, run, guest, true);
    throw error;
  }
  const bad = reports.some((r) => r.verdict === 'failed' || r.verdict === 'error');
  await keepIfAsked(input, run, guest, bad);
  await run.save({ live: null });
  return { reports, collected };
}

/** A VM that boots while other work goes on. Disposing it ends the VM, also one that has not booted yet. */
class PrebootedVm implements AsyncDisposable {
  #booting: Promise<Booted> | undefined;

  constructor(private readonly boot: () => Promise<Booted>) {}

  start(): Promise<Booted> {
    if (!this.#booting) {
      this.#booting = this.boot();
      // Whoever asks for the VM hears of it; nobody may.
      this.#booting.catch(() => undefined);
    }
    return this.#booting;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const booting = this.#booting;
    this.#booting = undefined;
    const booted = await booting?.catch(() => null);
    await booted?.[Symbol.asyncDispose]();
  }
}

/** Packs, proves, if asked builds again, and publishes what was built; writes the logs beside the packages. */
async function finish(
  input: CellInput,
  run: RunDir,
  built: Built,
  usual: BuildConditions,
  phases: Record<string, number>,
  phase: Phase,
  prepared: Prepared,
  verifyVm: PrebootedVm,
  startedOn: Date,
): Promise<CellResult[]> {
  const { target } = input;
  const form = packageForm(input.lookup.row);
  const stage = join(run.dir, 'stage');
  await mkdir(stage, { recursive: true });
  const results: CellResult[] = [];
  const staged: PackedModule[] = [];
  const logs: { bytes: Buffer; to: string }[] = [];
  // Not before the outcome is known: an interrupted cell leaves nothing in the out-dir.
  const publishLogs = async (): Promise<void> => {
    for (const { bytes, to } of logs) await writeAtomic(bytes, to);
  };
  const { reports, collected } = built;
  for (const report of reports) {
    const base = packageBaseName(
      { module: report.name, version: report.version, release: target.release, arch: target.arch },
      input.nameStyle,
      form,
    );
    const logBytes = collected.modules.find(
      (m) => m.name === report.name && m.version === report.version,
    )?.log;
    // Its own cell reports and publishes it; here it is only there for the proof.
    const ownedByOtherCell = report.dependency && prepared.brings.includes(report.name);
    const log = logBytes && !ownedByOtherCell ? join(input.outDir, `${base}.log`) : null;
    if (log && logBytes) logs.push({ bytes: logBytes, to: log });
    const result: CellResult = {
      module: report.name,
      version: report.version,
      kernel: target.release,
      distro: target.distro,
      arch: target.arch,
      verdict: report.verdict,
      reason: report.verdict === 'built' ? null : report.reason || report.firstError || null,
      package: null,
      log,
      phases,
      kept: run.record.kept ? run.record.id : null,
      fault: report.verdict === 'failed' ? 'module' : report.verdict === 'error' ? 'transient' : null,
    };
    if (!ownedByOtherCell) results.push(result);
    if (report.verdict !== 'built' || (ownedByOtherCell && !input.verify)) continue;
    try {
      const found = moduleOf(collected, report);
      const pack: PackedModule['pack'] = async ({ collected: from }, signer, outDir) => {
        const { ko, debug, extras, buildDepends } = moduleOf(from, report);
        const content = {
          module: report.name,
          version: report.version,
          release: target.release,
          modules: await finishModules(ko, ownedByOtherCell ? [] : debug, signer, input),
          extras,
          sourcePackage: ownedByOtherCell ? null : from.source,
          maintainer: 'dkms2bin <dkms2bin@localhost>',
          dependsModules: buildDepends,
          mtime: EPOCH,
          outDir,
        };
        return form === 'deb'
          ? packModules({
              ...content,
              debArch: DEB_ARCH[target.arch],
              kernelImages: kernelPackages(input.lookup.row, target.release).image,
              fileName: `${base}.deb`,
            })
          : packRpms({ ...content, arch: target.arch, form }, await verifyVm.start(), input);
      };
      const packed = await phase('pack', () => pack(built, input.signer, stage));
      const main = packed.find((p) => p.role === 'modules')!.path;
      staged.push({
        result,
        ownedByOtherCell,
        pack,
        packed,
        main,
        koNames: found.ko.map((k) => k.name.replace(/\.ko$/, '')),
        needs: found.ko.flatMap((k) => readModule(k.bytes).depends),
      });
      if (input.debugSymbols && !ownedByOtherCell) await noteMissingSymbols(input, found);
    } catch (error) {
      markFailed(result, error);
    }
  }
  if (staged.every((each) => each.ownedByOtherCell)) {
    await publishLogs();
    return results;
  }

  if (input.verify) {
    const verdicts = await phase('verify', async () => prove(input, await verifyVm.start(), staged)).catch(
      async (error: unknown) => {
        if (!input.machine.signal.aborted) await publishLogs();
        throw error;
      },
    );
    for (const { result } of staged) {
      const proof = verdicts.get(result);
      if (!proof) continue;
      result.verdict = proof.ok ? 'built' : 'failed';
      result.reason = proof.reason;
      if (!proof.ok) result.fault = 'module';
    }
  }
  if (input.checkReproducible) {
    // Its memory is wanted for the other one.
    await verifyVm[Symbol.asyncDispose]();
    const rebuild = (again: RunDir, conditions: BuildConditions): Promise<Built> =>
      buildInVm({ ...input, debug: false, keepFailed: false }, prepared, again, conditions, (_, work) =>
        work(),
      );
    await phase('rebuild', () =>
      checkReproducible(input, prepared.network, built, staged, usual, rebuild),
    ).catch(async (error: unknown) => {
      if (!input.machine.signal.aborted) await publishLogs();
      throw error;
    });
  }
  await publishLogs();
  const record: BuiltRecord[] = [];
  for (const { result, ownedByOtherCell, packed, main } of staged) {
    if (ownedByOtherCell || result.verdict !== 'built') continue;
    const digests: Record<string, string> = {};
    const published: string[] = [];
    for (const { path: file } of packed) {
      const to = join(input.outDir, basename(file));
      const { status, sha256 } = await writeAtomic({ file }, to);
      digests[basename(file)] = sha256;
      published.push(to);
      if (file === main) {
        result.package = to;
        if (status === 'up to date' && result.reason === null) result.reason = 'up to date';
      }
    }
    const attestation = await attest({ input, prepared, startedOn }, result, published);
    record.push({ result, packages: digests, attestation });
  }
  if (results.every((r) => r.verdict === 'built'))
    await remember(input, cellIdentity(input, prepared), record);
  return results;
}

function moduleOf({ modules }: Collected, { name, version }: ModuleReport): Collected['modules'][0] {
  const found = modules.find((m) => m.name === name && m.version === version);
  if (!found) throw new Dkms2binError('module', `${name}: the guest sent no module files`);
  return found;
}

/** The modules as they are shipped: signed on this host, after the build VM is gone, then compressed as the kernel's own are. */
async function finishModules(
  modules: Collected['modules'][0]['ko'],
  debugFiles: Collected['modules'][0]['debug'],
  signer: Signer | null,
  { environment, machine }: CellInput,
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
  { ko, debug, debugTooLarge }: Collected['modules'][0],
): Promise<void> {
  const config = await readFile(environment.layer.config, 'utf8');
  const symbols = pairDebugSymbols(ko, debug);
  for (const { name, bytes } of ko) {
    if (symbols.has(name)) continue;
    const kept = hasDebugInfo(bytes);
    const why = kept
      ? 'it keeps them itself, as its dkms.conf asks (STRIP=no)'
      : !/^CONFIG_DEBUG_INFO=y$/m.test(config)
        ? 'the kernel is configured without debug information (CONFIG_DEBUG_INFO)'
        : debugTooLarge
          ? `they are larger than ${MAX_DEBUG_BYTES / 2 ** 20} MiB`
          : 'its build made none';
    machine.emit({
      type: 'note',
      level: kept ? 'info' : 'warn',
      message: `No package of debug symbols for ${name}: ${why}`,
      cell: label,
    });
  }
}

/** A package that waits for its proof. */
export interface PackedModule {
  result: CellResult;
  /** Published by another cell of the request. */
  ownedByOtherCell: boolean;
  /** Packs what this build, or another one of the same cell, made of the module, into `outDir`. */
  pack: (built: Built, signer: Signer | null, outDir: string) => Promise<PackedPackage[]>;
  packed: PackedPackage[];
  main: string;
  koNames: string[];
  /** Modules of the kernel that its own ones ask for. */
  needs: string[];
}

interface Proof {
  ok: boolean;
  reason: string | null;
}

/** Installs and loads the packages in a VM that never ran the package's build. */
async function prove(
  input: CellInput,
  booted: Booted,
  staged: PackedModule[],
): Promise<Map<CellResult, Proof>> {
  const { machine, target } = input;
  const installed = staged.flatMap((s) => s.packed).filter(({ role }) => role !== 'debug');
  const packages = [...new Map(installed.map((p) => [p.path, p])).values()];
  const bytes = await Promise.all(packages.map((p) => readFile(p.path)));
  const proofs = new Map<CellResult, Proof>();
  const result = await booted.guest.script(
    'prove.py',
    {
      PACKAGES: packages.map((p, at) => [basename(p.path), bytes[at]!.length, p.package]),
      MODULES: staged.flatMap((s) => s.koNames),
      NEEDS: [...new Set(staged.flatMap((s) => s.needs))],
      RELEASE: target.release,
      MANAGER: input.lookup.row.packageManager ?? 'apt',
    },
    {
      after: ['load.py'],
      input: Buffer.concat(bytes),
      timeoutMs: deadline(machine.accel, 60),
      onLine: (text) => machine.emit({ type: 'output', cell: input.label, line: text }),
    },
  );
  const error = result.reports.find((r) => r.key === 'error')?.value;
  const judged = result.code !== 1 || result.reports.some((r) => r.key === 'load');
  if (![0, 1, 7, 11].includes(result.code) || !judged) {
    throw new Dkms2binError(
      'transient',
      `The verify VM could not prove the package: ${error ?? result.tail.split('\n').slice(-3).join(' ')}`,
    );
  }
  for (const { result: cell, koNames } of staged) {
    const loads = koNames.map((name) => howItLoads(result, name));
    const bad = loads.find((l) => l.how !== 'loaded' && l.how !== 'refused');
    const refused = loads.filter((l) => l.how === 'refused');
    if (bad || result.code !== 0) {
      const why = bad
        ? `${bad.name} does not load (${bad.how}): ${bad.why}`
        : (error ?? result.tail.split('\n').slice(-3).join(' '));
      proofs.set(cell, { ok: false, reason: error && bad?.how === 'missing' ? error : why });
    } else {
      proofs.set(cell, {
        ok: true,
        reason:
          refused.length > 0
            ? `installs; not loaded: ${refused.map((l) => `${l.name}: ${l.why}`).join('; ')}`
            : null,
      });
    }
  }
  return proofs;
}

/** What load.py reported of a module: loaded, refused, bad, or missing when it reported nothing. */
export function howItLoads(
  { reports }: GuestOutput,
  name: string,
): { name: string; how: string; why: string } {
  const said = reports.find((r) => r.key === 'load' && r.value.startsWith(`${name} `))?.value ?? '';
  const [, how = 'missing', ...rest] = said.split(' ');
  return { name, how, why: rest.join(' ') };
}

/** Sends a local source into the guest, or lets the guest download the package; the variables name it for build.sh. */
async function pushSource(
  guest: Guest,
  prepared: Prepared,
  row: DistroRow,
  machine: Machine,
  onLine: (line: string) => void,
): Promise<Record<string, string>> {
  const { source } = prepared;
  const vars: Record<string, string> = {
    KIND: source.kind,
    NAME: prepared.package?.name ?? '',
    VERSION: prepared.package?.version ?? '',
    SRC: '',
    EXTRA: '',
    BROUGHT: prepared.brings.join(' '),
  };
  const push = async (from: Exclude<ModuleSource, { kind: 'repo' }>, name: string): Promise<string> => {
    // tar finds the compression out by itself, so a tarball needs no name of its own in the guest.
    const to = `${GUEST_DIR}/${name}.${from.kind === 'deb' ? 'deb' : 'tar'}`;
    const content =
      from.kind === 'folder'
        ? { bytes: await folderTar(from.path, machine.signal) }
        : from.kind === 'rpm'
          ? { bytes: await rpmTar(from.path) }
          : { file: from.path };
    await guest.put(content, to);
    return to;
  };
  if (source.kind !== 'repo') vars.SRC = await push(source, 'source');
  const extra: string[] = [];
  for (const each of prepared.with) extra.push(`${each.kind}:${await push(each, `extra-${extra.length}`)}`);
  vars.EXTRA = extra.join(' ');
  if (!prepared.network) return vars;
  if (packageForm(row) !== 'deb') {
    throw new Dkms2binError('not-found', `${source.text} needs modules that nobody brings (BUILD_DEPENDS)`, {
      hint: `Packages of ${row.id} cannot be looked up by name yet: give their sources with --dkms, too.`,
    });
  }
  const result = await guest.script('fetch-source.sh', vars, {
    timeoutMs: deadline(machine.accel, 180),
    onLine,
  });
  const said = new Map(result.reports.map((r) => [r.key, r.value]));
  if (result.code !== 0) {
    const near = result.reports.filter((r) => r.key === 'near').map((r) => r.value);
    const fault =
      result.code === 3
        ? 'not-found'
        : result.code === 2
          ? 'usage'
          : result.code === 8
            ? 'host'
            : 'transient';
    throw new Dkms2binError(
      fault,
      `${source.text}: ${said.get('error') ?? result.tail.split('\n').slice(-3).join('\n')}`,
      near.length > 0 ? { hint: `Near it: ${near.join(', ')}` } : {},
    );
  }
  return vars;
}

interface Collected {
  source: { name: string; version?: string } | null;
  modules: {
    name: string;
    version: string;
    ko: { name: string; bytes: Buffer }[];
    debug: { name: string; bytes: Buffer }[];
    /** Some debug symbols were too large to be sent. */
    debugTooLarge: boolean;
    extras: { path: string; mode: number; bytes: Buffer }[];
    log: Buffer | null;
    buildDepends: string[];
  }[];
}

async function collect(guest: Guest, machine: Machine): Promise<Collected> {
  const stream = await guest.program('collect.py', deadline(machine.accel, 60));
  const frames = await new FrameReader(stream.stdout, {
    kinds: ['meta', 'ko', 'debug', 'extra', 'log'],
    limits: { single: MAX_DEBUG_BYTES, total: MAX_DEBUG_TOTAL },
  }).all();
  await stream.done;
  const meta = frames.find((f) => f.kind === 'meta');
  if (!meta) throw new Dkms2binError('transient', 'The guest sent no description of what it built');
  const said = frameJson(meta, COLLECTED);
  const blob = (index: number, kind: string): Buffer => {
    const frame = frames.find((f) => f.index === index && f.kind === kind);
    if (!frame) throw new Dkms2binError('module', `The guest names a ${kind} file that it did not send`);
    return frame.bytes;
  };
  return {
    source: said.sourcePackage
      ? { name: said.sourcePackage, ...(said.sourceVersion ? { version: said.sourceVersion } : {}) }
      : null,
    modules: said.modules.map((m, at) => ({
      name: checkModuleName(m.name),
      version: checkModuleVersion(m.version),
      ko: m.ko.map((k) => ({ name: k.dest, bytes: blob(k.blob, 'ko') })),
      debug: m.debug.map((d) => ({ name: d.file, bytes: blob(d.blob, 'debug') })),
      debugTooLarge: m.debugTooLarge,
      // They belong to the source package as a whole: its first module carries them.
      extras:
        at === said.modules.findIndex((each) => !each.dependency)
          ? said.extras
              .filter((e) => isExtraPath(e.path))
              .map((e) => ({ path: e.path, mode: e.mode, bytes: blob(e.blob, 'extra') }))
          : [],
      log: m.log === null || m.log === undefined ? null : blob(m.log, 'log'),
      buildDepends: m.buildDepends.map(checkModuleName),
    })),
  };
}

function readReports(lines: { key: string; value: string }[]): ModuleReport[] {
  const reports: ModuleReport[] = [];
  for (const { key, value } of lines) {
    if (key !== 'module' && key !== 'dependency') continue;
    const [name = '', version = '', verdict = '', ...rest] = value.split(' ');
    if (verdict !== 'built' && verdict !== 'skipped' && verdict !== 'failed' && verdict !== 'error') continue;
    const id = `${name}/${version} `;
    const of = (k: string): string | undefined =>
      lines.find((l) => l.key === k && l.value.startsWith(id))?.value.slice(id.length);
    const seconds = of('build-seconds');
    const firstError = of('first-error');
    reports.push({
      name: checkModuleName(name),
      version: checkModuleVersion(version),
      verdict,
      reason: rest.join(' '),
      dependency: key === 'dependency',
      ...(firstError ? { firstError } : {}),
      ...(seconds ? { seconds: Number(seconds) } : {}),
    });
  }
  return reports;
}

/** A root shell on the console of a VM that will be logged in to. The build VM holds nothing of the host's. */
const autologin = (tty: string): string =>
  `d=/etc/systemd/system/serial-getty@${tty}.service.d; mkdir -p $d; ` +
  "printf '[Service]\\nExecStart=\\nExecStart=-/sbin/agetty -a root --keep-baud 115200 %%I xterm\\n' > $d/dkms2bin.conf; " +
  `systemctl daemon-reload; systemctl --no-block restart serial-getty@${tty}.service`;

/** Lets people in, over ssh and on the console. */
async function keepable(input: CellInput, run: RunDir, guest: Guest): Promise<void> {
  await openSsh(guest, run.dir, input.machine);
  await guest.text(autologin(CONSOLE[input.target.arch]));
}

async function keepIfAsked(input: CellInput, run: RunDir, guest: Guest, failed: boolean): Promise<void> {
  if (!input.debug && !(failed && input.keepFailed)) return;
  if (input.machine.signal.aborted && !input.debug) return;
  await run.save({ kept: true });
  // A guest that is dead or stuck cannot be opened; its disk is kept all the same.
  if (!input.debug) {
    await keepable(input, run, guest).catch((error: unknown) => {
      input.machine.emit({ type: 'note', level: 'warn', message: messageOf(error), cell: input.label });
    });
  }
  if (failed && input.onFailure && !input.machine.signal.aborted) await input.onFailure(run);
  // The file system must be whole when the disk is booted again; a dead or interrupted guest cannot be asked.
  await guest.text('sync', 60_000).catch(() => undefined);
}

export type Phase = <T>(name: string, work: () => Promise<T>) => Promise<T>;

export function phaseTimer(phases: Record<string, number>, emit: Emit, cell: string): Phase {
  return async (name, work) => {
    const started = performance.now();
    emit({ type: 'phase', state: 'start', phase: name, cell });
    try {
      return await work();
    } finally {
      const seconds = (performance.now() - started) / 1000;
      phases[name] = (phases[name] ?? 0) + seconds;
      emit({ type: 'phase', state: 'end', phase: name, cell, seconds });
    }
  };
}

function markFailed(result: CellResult, error: unknown): void {
  result.verdict = 'failed';
  result.fault = 'module';
  result.reason = messageOf(error);
  if (!(error instanceof Dkms2binError)) throw error;
}
