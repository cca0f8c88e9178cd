import { join } from 'node:path';
import { serveCompiler, type CompileCount, type CompileService } from '../compiler/service.js';
import { deadline, MIRROR_HINT, specOf, type Booted } from '../environment/boot.js';
import { AS_LONG_AS_IT_TAKES_MS } from '../guest/transport.js';
import { guestProxy } from '../environment/guest-proxy.js';
import { mirrorsOf } from '../distro/mirrors.js';
import { packageForm } from '../distro/row.js';
import { GUEST_DIR, type Guest, type ScriptRun } from '../guest/guest.js';
import { runBuild, type ModuleReport } from '../guest/programs/build.js';
import { collect } from '../guest/programs/collect.js';
import { fetchSource } from '../guest/programs/fetch-source.js';
import type { PushedSource } from '../guest/programs/pushed-source.js';
import { extraAuthorities } from '../lib/authorities.js';
import { Dkms2binError } from '../model/errors.js';
import type { Network } from '../vm/args.js';
import { MAX_DEBUG_BYTES, MAX_DEBUG_TOTAL } from '../pack/debug-symbols.js';
import { allowLogin, keepIfAsked } from './keep.js';
import type { Phase } from './phases.js';
import type { RunDir } from './run-dir.js';
import { readSource, withOverlaps } from './source-reading.js';
import { EPOCH, folderTar, rpmTar, type LocalSource, type Prepared } from './source.js';
import type { BuildConditions, Built, CellInput, Compiled, Opened } from './types.js';

/** One build of a cell; a cell whose reproducibility is checked has two. */
export interface BuildTurn {
  input: CellInput;
  prepared: Prepared;
  run: RunDir;
  conditions: BuildConditions;
  phase: Phase;
  /** Hears how each module ended before its files are taken. */
  onReport?: (report: ModuleReport) => void;
}

/** Builds the cell's modules in its build VM. */
export async function compile(cell: Opened): Promise<Compiled> {
  const { input, verifyVm, phases } = cell;
  // The verify VM boots while the build VM hands over what it made.
  const onReport = ({ verdict }: ModuleReport): void => {
    if (input.verify && verdict === 'built') void verifyVm.start();
  };
  const built = await buildInVm({ ...cell, onReport });
  for (const { seconds } of built.reports) {
    if (seconds !== undefined) phases.build = (phases.build ?? 0) + seconds;
  }
  return { ...cell, built };
}

/** What of the host's network a build VM is in; what leads out is cut before the package's code runs. */
export function networkOf(
  { debug, keepFailed, onFailure }: CellInput,
  { network }: Pick<Prepared, 'network'>,
): Network {
  if (network) return 'egress';
  return debug || keepFailed || onFailure ? 'login' : 'none';
}

/** Boots a build VM, runs the package's build in it and takes what it made. */
export async function buildInVm(turn: BuildTurn): Promise<Built> {
  const { input, run, phase, conditions } = turn;
  const { environment, machine } = input;
  // A kept disk is booted again for a login. The package's code has run in it by then: its card has addresses, and leads nowhere.
  const spec = specOf(machine, {
    ...{ boot: environment.layer.boot, control: 'ssh', egress: true, network: 'login' },
  });
  await using booted = await phase('boot', () => conditions.boot(run.dir));
  const { vm, guest } = booted;
  await run.save({
    live: { socketDir: vm.socketDir, sshPort: vm.sshPort },
    vm: { ...spec, backings: vm.backings },
  });
  let built: Built;
  try {
    if (input.debug) await allowLogin(input, run, guest);
    await using compiler = await compilerFor(turn, vm.compilerSocket);
    built = await buildInGuest(turn, { vm, guest, compiler });
  } catch (error) {
    await keepIfAsked(input, run, guest, true);
    throw error;
  }
  const bad = built.reports.some(({ verdict }) => verdict === 'failed' || verdict === 'error');
  await keepIfAsked(input, run, guest, bad);
  await run.save({ live: null });
  return built;
}

/** What compiles for the guest's compiler; null where it compiles everything itself. */
async function compilerFor(
  { input, conditions, run }: BuildTurn,
  socket: string,
): Promise<CompileService | null> {
  const root = conditions.compiler;
  if (!root) return null;
  return serveCompiler({ socket, root, dir: join(run.dir, 'compiler') }, input.machine.signal);
}

/** Sends the source, cuts the way out, builds, and takes what came of it. */
async function buildInGuest(
  { input, prepared, conditions, phase, run: runDir, onReport }: BuildTurn,
  { vm, guest, compiler }: Pick<Booted, 'vm' | 'guest'> & { compiler: CompileService | null },
): Promise<Built> {
  const { machine, label } = input;
  const onLine = (line: string): void => machine.emit({ type: 'output', cell: label, line });
  const { source, reading } = await phase('fetch', async () => {
    const pushed = await pushSource(guest, prepared, machine.signal);
    const path = prepared.network ? await fetchInGuest(input, guest, pushed, onLine) : null;
    const fetched = path === null ? null : { guest, path, dir: runDir.dir };
    const read = await readSource(prepared, fetched, machine.signal);
    return { source: pushed, reading: await withOverlaps(read, guest, packageForm(input.lookup.row)) };
  });
  // From here on the package's own code runs: nothing but the management NIC is left to it.
  await vm.cutEgress();
  await conditions.disguise?.(guest);
  const order = {
    source,
    release: input.target.release,
    jobs: conditions.jobs,
    epoch: EPOCH,
    keep: input.debug || input.keepFailed,
    debugSymbols: input.debugSymbols,
    compileOnHost: compiler !== null,
  };
  const run: ScriptRun = { timeoutMs: input.timeoutMs, onLine };
  const reports = await phase('dkms', () => runBuild(guest, order, label, run));
  for (const report of reports) onReport?.(report);
  const limits = { single: MAX_DEBUG_BYTES, total: MAX_DEBUG_TOTAL };
  const collected = await phase('collect', () => collect(guest, limits));
  if (compiler) onLine(compilationsText(compiler.count));
  return { reports, compilations: compiler?.count, collected, reading };
}

/** Where the files were compiled, in a line. */
function compilationsText({ host, guest }: CompileCount): string {
  const left = Object.entries(guest).map(([why, count]) => `${count} because of ${why}`);
  return `compiled on the host: ${host}${left.length > 0 ? `; in the VM: ${left.join(', ')}` : ''}`;
}

/** Sends the cell's local sources into the guest. */
async function pushSource(guest: Guest, prepared: Prepared, signal: AbortSignal): Promise<PushedSource> {
  const push = async (source: LocalSource, name: string): Promise<string> => {
    // tar finds the compression out by itself, so a tarball needs no name of its own in the guest.
    const to = `${GUEST_DIR}/${name}.${source.kind === 'deb' ? 'deb' : 'tar'}`;
    await guest.put(await contentOf(source, signal), to);
    return to;
  };
  const { source } = prepared;
  const path = source.kind === 'repo' ? '' : await push(source, 'source');
  const extra: { kind: LocalSource['kind']; path: string }[] = [];
  for (const each of prepared.with) {
    extra.push({ kind: each.kind, path: await push(each, `extra-${extra.length}`) });
  }
  return {
    kind: source.kind,
    name: prepared.package?.name ?? '',
    version: prepared.package?.version ?? '',
    path,
    extra,
    brings: prepared.brings,
  };
}

async function contentOf(
  source: LocalSource,
  signal: AbortSignal,
): Promise<{ bytes: Buffer } | { file: string }> {
  if (source.kind === 'folder') return { bytes: await folderTar(source.path, signal) };
  if (source.kind === 'rpm') return { bytes: await rpmTar(source.path) };
  return { file: source.path };
}

/** Lets the guest download what the host could not find for it; the path in the guest of a repository's package. */
async function fetchInGuest(
  { source, lookup, machine }: CellInput,
  guest: Guest,
  pushed: PushedSource,
  onLine: (line: string) => void,
): Promise<string | null> {
  if (packageForm(lookup.row) !== 'deb') {
    throw new Dkms2binError(
      'not-found',
      `${source.text} needs modules that no source provides (BUILD_DEPENDS)`,
      {
        hint: `Packages of ${lookup.row.id} cannot be looked up by name yet: give their sources with --dkms as well.`,
      },
    );
  }
  const { main, security } = await mirrorsOf(lookup.row, machine, machine.arch);
  await using through = await guestProxy({ proxy: machine.proxy ?? '', urls: [main, security] }, 'vm');
  const how = { called: source.text, proxy: through.proxy, authorities: await extraAuthorities() };
  // A line may be as slow as it likes; apt itself gives a connection up after a minute.
  const silenceMs = deadline(machine.accel, 120);
  const run = { timeoutMs: AS_LONG_AS_IT_TAKES_MS, silenceMs, lateHint: MIRROR_HINT, onLine };
  return await fetchSource(guest, pushed, how, run);
}
