import { createHash, randomBytes } from 'node:crypto';
import { copyFile, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { DEB_ARCH, type CellResult, type KernelTarget, type ModuleSource } from '../core/cell.js';
import type { Emit } from '../core/events.js';
import { Dkms2binError, messageOf } from '../core/errors.js';
import { run } from '../core/exec.js';
import { frameJson, FrameReader } from '../core/frames.js';
import { cacheDir } from '../core/paths.js';
import { GUEST_DIR, type Guest } from '../guest/guest.js';
import { hashOf } from '../image/cache.js';
import { isExtraPath, packModules } from '../pack/module-package.js';
import { checkModuleName, checkModuleVersion, packageBaseName } from '../plan/naming.js';
import { digestOf, type KernelLayer } from './kernel-layer.js';
import { bootNew, deadline, specOf, type Machine } from './machine.js';
import { RunDir } from './run-dir.js';

export interface CellInput {
  /** What to call the cell in messages. */
  label: string;
  source: ModuleSource;
  target: KernelTarget;
  layer: KernelLayer;
  machine: Machine;
  outDir: string;
  nameStyle: 'seed' | 'dkms';
  verify: boolean;
  force: boolean;
  debug: boolean;
  keepFailed: boolean;
  timeoutMs: number;
  /** Called while the VM of a failed build still runs, when it will be kept. */
  onFailure?: (run: RunDir) => Promise<void>;
}

/** What collect.sh tells of the build; every name in it is the guest's word and is checked before use. */
const COLLECTED = z.object({
  modules: z.array(
    z.object({
      name: z.string(),
      version: z.string(),
      verdict: z.string().optional(),
      ko: z.array(z.object({ dest: z.string(), blob: z.number().int() })),
      dependency: z.boolean().default(false),
      log: z.number().int().nullish(),
      buildDepends: z.array(z.string()).default([]),
    }),
  ),
  extras: z.array(z.object({ path: z.string(), mode: z.number().int(), blob: z.number().int() })),
  sourcePackage: z.string().nullish(),
  sourceVersion: z.string().nullish(),
});

interface ModuleReport {
  name: string;
  version: string;
  verdict: 'built' | 'skipped' | 'failed' | 'error';
  reason: string;
  firstError?: string;
  seconds?: number;
}

/** Seconds since 1970 that every file and kbuild timestamp gets: a constant, so that same input gives same bytes. */
const EPOCH = Number(process.env.SOURCE_DATE_EPOCH ?? 1577836800);

/** Builds one cell from source to published package; a package with several modules gives several results. */
export async function buildCell(input: CellInput): Promise<CellResult[]> {
  const phases: Record<string, number> = {};
  const phase = phaseTimer(phases, input.machine.emit, input.label);
  const known = await upToDate(input, await localIdentity(input.source));
  if (known) return known;

  const run = await RunDir.create({
    cell: input.label,
    kernel: input.target.release,
    distro: input.target.distro,
  });
  try {
    return await buildInRun(input, run, phases, phase);
  } finally {
    await run.close();
  }
}

async function buildInRun(
  input: CellInput,
  run: RunDir,
  phases: Record<string, number>,
  phase: Phase,
): Promise<CellResult[]> {
  const { source, target, layer, machine } = input;
  const line = (text: string): void => machine.emit({ type: 'output', cell: input.label, line: text });
  const spec = specOf(machine, layer.boot, true);
  let reports: ModuleReport[];
  let collected: Collected;
  let identity = await localIdentity(source);
  {
    await using booted = await phase('boot', () => bootNew(layer.disk, spec, run.dir, machine));
    const { vm, guest } = booted;
    await run.save({ live: { socketDir: vm.socketDir, sshPort: vm.sshPort }, vm: { ...spec } });
    try {
      const running = (await guest.text('uname -r')).trim();
      if (running !== target.release) {
        throw new Dkms2binError('transient', `The VM runs ${running}, not ${target.release}`);
      }
      if (input.debug || input.keepFailed) await guest.text(AUTOLOGIN);
      const vars = await phase('fetch', () => pushSource(guest, source, machine, line));
      if (source.kind === 'repo') identity = `repo ${vars.NAME}=${vars.VERSION}`;
      const known = await upToDate(input, identity);
      if (known) return known;

      // From here on the package's own code runs: nothing but the management NIC is left to it.
      await vm.cutEgress();
      const jobs = Math.max(1, Math.min(machine.cpus, Math.floor(machine.memoryMiB / 1024)));
      const result = await phase('dkms', () =>
        guest.script(
          'build.sh',
          { ...vars, RELEASE: target.release, JOBS: String(jobs), EPOCH: String(EPOCH) },
          { timeoutMs: input.timeoutMs, onLine: line },
        ),
      );
      reports = readReports(result.reports);
      if (reports.length === 0) {
        const why =
          result.reports.find((r) => r.key === 'error')?.value ??
          result.tail.split('\n').slice(-3).join('\n');
        throw new Dkms2binError(
          result.code === 3 || result.code === 7 ? 'module' : result.code === 2 ? 'usage' : 'transient',
          `${input.label}: ${why}`,
        );
      }
      collected = await phase('collect', () => collect(guest, machine));
    } catch (error) {
      await keepIfAsked(input, run, guest, true);
      throw error;
    }
    const bad = reports.some((r) => r.verdict === 'failed' || r.verdict === 'error');
    await keepIfAsked(input, run, guest, bad);
    await run.save({ live: null });
  }
  for (const report of reports)
    if (report.seconds !== undefined) phases.build = (phases.build ?? 0) + report.seconds;
  return finish(input, run, reports, collected, phases, phase, identity);
}

/** Packs, proves and publishes what was built; writes the logs beside the packages. */
async function finish(
  input: CellInput,
  run: RunDir,
  reports: ModuleReport[],
  collected: Collected,
  phases: Record<string, number>,
  phase: Phase,
  identity: string | null,
): Promise<CellResult[]> {
  const { target } = input;
  const stage = join(run.dir, 'stage');
  await mkdir(stage, { recursive: true });
  const results: CellResult[] = [];
  const staged: { result: CellResult; files: string[]; main: string; koNames: string[] }[] = [];
  for (const report of reports) {
    const base = packageBaseName(
      { module: report.name, version: report.version, release: target.release, arch: target.arch },
      input.nameStyle,
    );
    const found = collected.modules.find((m) => m.name === report.name && m.version === report.version);
    const log = found?.log ? join(input.outDir, `${base}.log`) : null;
    if (log && found?.log) await publishBytes(found.log, log);
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
    results.push(result);
    if (report.verdict !== 'built') continue;
    try {
      if (!found) throw new Dkms2binError('module', `${report.name}: the guest sent no module files`);
      const packed = await phase('pack', () =>
        packModules({
          module: report.name,
          version: report.version,
          release: target.release,
          debArch: DEB_ARCH[target.arch],
          modules: found.ko,
          extras: found.extras,
          sourcePackage: collected.source,
          maintainer: 'dkms2bin <dkms2bin@localhost>',
          dependsModules: found.buildDepends,
          mtime: EPOCH,
          outDir: stage,
          fileName: `${base}.deb`,
        }),
      );
      const main = packed.find((p) => p.role === 'modules')!.path;
      staged.push({
        result,
        files: packed.map((p) => p.path),
        main,
        koNames: found.ko.map((k) => k.name.replace(/\.ko$/, '')),
      });
    } catch (error) {
      blame(result, error);
    }
  }
  if (staged.length === 0) return results;

  if (input.verify) {
    const verdicts = await phase('verify', () => prove(input, run, staged));
    for (const { result } of staged) {
      const proof = verdicts.get(result);
      if (!proof) continue;
      result.verdict = proof.ok ? 'built' : 'failed';
      result.reason = proof.reason;
      if (!proof.ok) result.fault = 'module';
    }
  }
  const record: BuiltRecord[] = [];
  for (const { result, files, main, koNames } of staged) {
    if (result.verdict !== 'built') continue;
    for (const file of files) {
      const to = join(input.outDir, basename(file));
      const state = await publishFile(file, to);
      if (file === main) {
        result.package = to;
        if (state === 'same' && result.reason === null) result.reason = 'up to date';
      }
    }
    record.push({ ...result, reason: null, kept: null, files: await sums(files), koNames });
  }
  if (identity && results.every((r) => r.verdict === 'built')) await remember(input, identity, record);
  return results;
}

interface Proof {
  ok: boolean;
  reason: string | null;
}

/** Installs and loads the packages in a VM that never ran the package's build. */
async function prove(
  input: CellInput,
  run: RunDir,
  staged: { result: CellResult; files: string[]; koNames: string[] }[],
): Promise<Map<CellResult, Proof>> {
  const { layer, machine, target } = input;
  const dir = join(run.dir, 'verify');
  const spec = specOf(machine, layer.boot, false);
  await using booted = await bootNew(layer.disk, spec, dir, machine);
  const { guest } = booted;
  await guest.text(`mkdir -p ${GUEST_DIR}/debs`);
  const debs: string[] = [];
  for (const file of new Set(staged.flatMap((s) => s.files))) {
    const to = `${GUEST_DIR}/debs/${basename(file)}`;
    await guest.put({ file }, to);
    debs.push(to);
  }
  const proofs = new Map<CellResult, Proof>();
  const result = await guest.script(
    'prove.sh',
    {
      DEBS: debs.join(' '),
      MODULES: staged.flatMap((s) => s.koNames).join(' '),
      RELEASE: target.release,
    },
    {
      timeoutMs: deadline(machine.accel, 60),
      onLine: (text) => machine.emit({ type: 'output', cell: input.label, line: text }),
    },
  );
  const error = result.reports.find((r) => r.key === 'error')?.value;
  if (![0, 1, 7, 11].includes(result.code)) {
    throw new Dkms2binError(
      'transient',
      `The verify VM could not prove the package: ${error ?? result.tail.split('\n').slice(-3).join(' ')}`,
    );
  }
  for (const { result: cell, koNames } of staged) {
    // load NAME loaded|no-hardware|bad|failed REASON…
    const loads = koNames.map((name) => {
      const said = result.reports.find((r) => r.key === 'load' && r.value.startsWith(`${name} `))?.value;
      const [, how = 'missing', ...rest] = (said ?? '').split(' ');
      return { name, how, why: rest.join(' ') };
    });
    const bad = loads.find((l) => l.how !== 'loaded' && l.how !== 'no-hardware');
    const missing = loads.filter((l) => l.how === 'no-hardware');
    if (bad || result.code !== 0) {
      const why = bad
        ? `${bad.name} does not load (${bad.how}): ${bad.why}`
        : (error ?? result.tail.split('\n').slice(-3).join(' '));
      proofs.set(cell, { ok: false, reason: error && bad?.how === 'missing' ? error : why });
    } else {
      proofs.set(cell, {
        ok: true,
        reason:
          missing.length > 0
            ? `installs; not loaded: ${missing.map((l) => `${l.name}: ${l.why}`).join('; ')}`
            : null,
      });
    }
  }
  return proofs;
}

/** Sends a local source into the guest, or lets the guest download the package; the variables name it for build.sh. */
async function pushSource(
  guest: Guest,
  source: ModuleSource,
  machine: Machine,
  onLine: (line: string) => void,
): Promise<Record<string, string>> {
  const vars: Record<string, string> = { KIND: source.kind, NAME: '', VERSION: '', SRC: '' };
  if (source.kind === 'repo') {
    vars.NAME = source.name;
    vars.VERSION = source.version ?? '';
  } else if (source.kind === 'rpm') {
    throw new Dkms2binError('usage', `${source.text} is an .rpm, and this target's packages are .deb`, {
      hint: 'Give the .deb of the module, or its source folder or tarball.',
    });
  } else {
    // tar finds the compression out by itself, so a tarball needs no name of its own in the guest.
    vars.SRC = `${GUEST_DIR}/source.${source.kind === 'deb' ? 'deb' : 'tar'}`;
    await guest.text(`mkdir -p ${GUEST_DIR}`);
    if (source.kind === 'folder') {
      const bytes = await folderTar(source.path, machine.signal);
      await guest.put({ bytes }, vars.SRC);
    } else {
      await guest.put({ file: source.path }, vars.SRC);
    }
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
  if (source.kind === 'repo') vars.VERSION = said.get('package-version') ?? source.version ?? '';
  return vars;
}

/** A folder as a tar whose bytes depend on its content alone. */
async function folderTar(path: string, signal: AbortSignal): Promise<Buffer> {
  const out = join(await mkTemporary(), 'source.tar');
  try {
    await run(
      'tar',
      [
        '--sort=name',
        `--mtime=@${EPOCH}`,
        '--owner=0',
        '--group=0',
        '--numeric-owner',
        '--exclude-vcs',
        '-cf',
        out,
        '-C',
        path,
        '.',
      ],
      { cancelSignal: signal },
    );
    return await readFile(out);
  } finally {
    await rm(join(out, '..'), { recursive: true, force: true });
  }
}

async function mkTemporary(): Promise<string> {
  const dir = join(cacheDir(), `tmp-${randomBytes(6).toString('hex')}`);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  return dir;
}

interface Collected {
  source: { name: string; version?: string } | null;
  modules: {
    name: string;
    version: string;
    ko: { name: string; bytes: Buffer }[];
    extras: { path: string; mode: number; bytes: Buffer }[];
    log: Buffer | null;
    buildDepends: string[];
  }[];
}

async function collect(guest: Guest, machine: Machine): Promise<Collected> {
  const stream = await guest.bytes('collect.sh', {}, deadline(machine.accel, 60));
  const frames = await new FrameReader(stream.stdout, { kinds: ['meta', 'ko', 'extra', 'log'] }).all();
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
      ...(firstError ? { firstError } : {}),
      ...(seconds ? { seconds: Number(seconds) } : {}),
    });
  }
  return reports;
}

/** A root shell on the console of a VM that will be logged in to. The build VM holds nothing of the host's. */
const AUTOLOGIN =
  'd=/etc/systemd/system/serial-getty@ttyS0.service.d; mkdir -p $d; ' +
  "printf '[Service]\\nExecStart=\\nExecStart=-/sbin/agetty -a root --keep-baud 115200 %%I xterm\\n' > $d/dkms2bin.conf; " +
  'systemctl daemon-reload; systemctl --no-block restart serial-getty@ttyS0.service';

async function keepIfAsked(input: CellInput, run: RunDir, guest: Guest, failed: boolean): Promise<void> {
  if (!input.debug && !(failed && input.keepFailed)) return;
  if (input.machine.signal.aborted && !input.debug) return;
  await run.save({ kept: true });
  if (failed && input.onFailure && !input.machine.signal.aborted) await input.onFailure(run);
  // The file system must be whole when the disk is booted again; a dead or interrupted guest cannot be asked.
  await guest.text('sync', 60_000).catch(() => undefined);
}

export type Phase = <T>(name: string, work: () => Promise<T>) => Promise<T>;

function phaseTimer(phases: Record<string, number>, emit: Emit, cell: string): Phase {
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

function blame(result: CellResult, error: unknown): void {
  result.verdict = 'failed';
  result.fault = 'module';
  result.reason = messageOf(error);
  if (!(error instanceof Dkms2binError)) throw error;
}

/** Puts a finished file into the out-dir whole or not at all; an identical one is left alone. */
async function publishFile(from: string, to: string): Promise<'new' | 'same'> {
  const size = await stat(to).then(
    (s) => s.size,
    () => -1,
  );
  if (size === (await stat(from)).size && (await digestOf(from)) === (await digestOf(to))) return 'same';
  const temporary = `${to}.${randomBytes(4).toString('hex')}.part`;
  try {
    await copyFile(from, temporary);
    await settle(temporary, to);
  } finally {
    await rm(temporary, { force: true });
  }
  return 'new';
}

async function publishBytes(bytes: Buffer, to: string): Promise<void> {
  const temporary = `${to}.${randomBytes(4).toString('hex')}.part`;
  try {
    await writeFile(temporary, bytes);
    await settle(temporary, to);
  } finally {
    await rm(temporary, { force: true });
  }
}

async function settle(temporary: string, to: string): Promise<void> {
  const handle = await open(temporary, 'r+');
  await handle.sync();
  await handle.close();
  await rename(temporary, to);
}

// --- up to date: what an earlier run made of the very same input is still in the out-dir ---------------------------

interface BuiltRecord extends CellResult {
  files: Record<string, string>;
  koNames: string[];
}

const recordPath = (input: CellInput, identity: string): string =>
  join(
    cacheDir(),
    'built',
    `${hashOf([1, identity, input.target.release, basename(input.layer.entry.dir), input.nameStyle, input.verify, EPOCH])}.json`,
  );

/** Content digest of a local source; null for a repository name, whose version only the guest resolves. */
async function localIdentity(source: ModuleSource): Promise<string | null> {
  if (source.kind === 'repo') return null;
  if (source.kind !== 'folder') return `file ${await digestOf(source.path)}`;
  const hash = createHash('sha256');
  const walk = async (dir: string): Promise<void> => {
    for (const each of (await readdir(dir, { withFileTypes: true })).sort((a, b) =>
      a.name < b.name ? -1 : 1,
    )) {
      const path = join(dir, each.name);
      hash.update(
        `${path.slice(source.path.length)}\0${each.isDirectory() ? 'd' : each.isFile() ? 'f' : 'o'}\0`,
      );
      if (each.isDirectory()) await walk(path);
      else if (each.isFile()) hash.update(await readFile(path));
    }
  };
  await walk(source.path);
  return `folder ${hash.digest('hex')}`;
}

async function upToDate(input: CellInput, identity: string | null): Promise<CellResult[] | null> {
  if (identity === null || input.force || input.debug) return null;
  let records: BuiltRecord[];
  try {
    records = JSON.parse(await readFile(recordPath(input, identity), 'utf8')) as BuiltRecord[];
  } catch {
    return null;
  }
  const results: CellResult[] = [];
  for (const { files, koNames: _, ...result } of records) {
    for (const [name, digest] of Object.entries(files)) {
      const now = await digestOf(join(input.outDir, name)).catch(() => null);
      if (now !== digest) return null;
    }
    const inOutDir = (path: string | null): string | null => path && join(input.outDir, basename(path));
    results.push({
      ...result,
      reason: 'up to date',
      package: inOutDir(result.package),
      log: inOutDir(result.log),
      phases: {},
    });
  }
  return results.length > 0 ? results : null;
}

async function remember(input: CellInput, identity: string, records: BuiltRecord[]): Promise<void> {
  const path = recordPath(input, identity);
  await mkdir(join(path, '..'), { recursive: true });
  await publishBytes(Buffer.from(JSON.stringify(records)), path);
}

async function sums(files: string[]): Promise<Record<string, string>> {
  const result: Record<string, string> = {};
  for (const file of files) result[basename(file)] = await digestOf(file);
  return result;
}
