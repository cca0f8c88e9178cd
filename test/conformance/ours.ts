import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { compile } from '../../src/cell/compile.js';
import { pack } from '../../src/cell/package.js';
import { phaseTimer } from '../../src/cell/phases.js';
import { PrebootedVm } from '../../src/cell/prebooted-vm.js';
import { RunDir } from '../../src/cell/run-dir.js';
import { dependenciesOf, localDigest, type LocalSource, type Prepared } from '../../src/cell/source.js';
import type { CellInput } from '../../src/cell/types.js';
import type { CompileCount } from '../../src/compiler/service.js';
import { findRow, loadCatalogue } from '../../src/distro/catalogue.js';
import { parseModuleSource } from '../../src/engine/plan/source.js';
import type { Booted } from '../../src/environment/boot.js';
import { readDeb } from '../../src/formats/deb.js';
import { Dkms2binError } from '../../src/model/errors.js';
import type { ModuleSource } from '../../src/model/cell.js';
import { bare, worstOf, type Outcome } from './outcome.js';
import { namespaceGuest } from './guest.js';
import { openPort } from '../host/compiler/port.js';
import { installStandIn } from './host-compiler.js';
import type { Root } from './roots.js';

const { signal } = new AbortController();
const emit = (): void => undefined;

/** What dkms2bin makes of source folders, of which the last one is the one that it is about; the guest's writes go to `upper`. */
export async function ours(
  root: Root,
  upper: string,
  folders: readonly string[],
  distro: string,
): Promise<Outcome> {
  try {
    const sources: ModuleSource[] = [];
    for (const folder of folders)
      sources.push(...(await parseModuleSource(folder, { cwd: dirname(folder), emit, signal })));
    return await ofPrepared(root, upper, await prepare(sources), { distro });
  } catch (error) {
    if (!(error instanceof Dkms2binError) || !['usage', 'module', 'not-found'].includes(error.fault))
      throw error;
    return { verdict: 'failed', said: `${error.message}\n${error.hint ?? ''}`, files: new Map() };
  }
}

async function prepare(sources: ModuleSource[]): Promise<Prepared> {
  const source = sources.at(-1) as LocalSource;
  const along = await dependenciesOf(source, sources, signal);
  return {
    ...{ source, package: null, brings: along.brings, network: false },
    digest: await localDigest(source, signal),
    with: await Promise.all(
      along.with.map(async (each) => ({ ...each, digest: await localDigest(each, signal) })),
    ),
  };
}

/** The same for a source that is ready, of which the guest fetches what it lacks; with `onHost` the host compiles for it, and is counted. */
export async function ofPrepared(
  root: Root,
  upper: string,
  prepared: Prepared,
  { distro, onHost = false }: { distro: string; onHost?: boolean },
): Promise<Outcome & { compilations?: CompileCount }> {
  const { release } = root;
  const folder = dirname(upper);
  mkdirSync(folder, { recursive: true });
  // No package of a source's own is there.
  writeFileSync(join(folder, 'packages'), '');
  const net = { open: prepared.network };
  const cutEgress = (): Promise<void> => {
    net.open = false;
    return Promise.resolve();
  };
  await using port = onHost ? await openPort(folder) : null;
  const guest = namespaceGuest(root, upper, net, port?.port);
  if (port) await installStandIn(guest, upper);
  const boot = (): Promise<Booted> =>
    Promise.resolve({
      vm: { socketDir: folder, sshPort: 1, cutEgress, compilerSocket: port?.socket },
      guest,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    } as unknown as Booted);
  const phases = {};
  const { source } = prepared;
  const label = source.text;
  const input = {
    ...{
      label,
      source,
      otherSources: [],
      signer: null,
      nameStyle: 'release',
      verify: false,
      timeoutMs: 600_000,
    },
    target: { release, distro, arch: 'x86_64' },
    environment: {
      layer: { boot: { kind: 'direct' }, config: root.config, entry: { dir: folder } },
      snapshot: null,
    },
    lookup: { row: findRow(await loadCatalogue(), distro) },
    machine: { accel: 'kvm', arch: 'x86_64', emit, signal },
    outDir: join(folder, 'out'),
  } as unknown as CellInput;
  const run = await RunDir.create({ cell: label, kernel: release, distro });
  try {
    const compiled = await compile({
      ...{
        input,
        startedOn: new Date(),
        phases,
        phase: phaseTimer(phases, emit, label),
        prepared,
        identity: '',
        run,
      },
      verifyVm: new PrebootedVm(boot),
      conditions: { compiler: port && root.folder, jobs: 2, boot },
    });
    const { modules } = await pack(compiled);
    const files: Outcome['files'] = new Map();
    const own = modules.filter(({ report }) => !report.dependency);
    for (const { packed } of own) {
      if (packed) await addFiles(files, packed.main, release);
    }
    // What a source lacks is nobody's fault but no module either.
    const verdicts = own.map(({ result: { verdict } }) => (verdict === 'error' ? 'failed' : verdict));
    const said = own.map(({ result }) => result.reason ?? '').join('\n');
    const { compilations } = compiled.built;
    return { verdict: worstOf(verdicts), said, files, ...(compilations && { compilations }) };
  } finally {
    await run.close();
  }
}

async function addFiles(files: Outcome['files'], path: string, release: string): Promise<void> {
  const below = new RegExp(`^(?:/usr)?/lib/modules/${release.replaceAll('+', '\\+')}/(.*\\.ko.*)$`);
  for (const file of (await readDeb(path)).files) {
    const [, name] = below.exec(file.path) ?? [];
    if (name !== undefined) files.set(name, await bare(file.bytes()));
  }
}
