import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import type { AddressInfo } from 'node:net';

/**
 * One cell of a matrix with a stand-in for its guest, from the download of an image to the repository, in folders of its own. It
 * kills itself at a step: a step is each change that it makes to the disk, and each event that it tells.
 */
interface Setting {
  dir: string;
  /** Null: it lives to its end, and prints how many steps there are. */
  killAt: number | null;
  marker: string;
}
const { dir, killAt, marker } = JSON.parse(process.env.SETTING!) as Setting;

// Before anything else is loaded: what the sources import by name are these.
const { countSteps } = await import('../../host/fixtures/steps.js');
const steps = await countSteps(killAt);

const { cached } = await import('../../../src/cache/entries.js');
const { compile } = await import('../../../src/cell/compile.js');
const { deliver, resultsOf } = await import('../../../src/cell/deliver.js');
const { remember } = await import('../../../src/cell/finished.js');
const { pack } = await import('../../../src/cell/package.js');
const { phaseTimer } = await import('../../../src/cell/phases.js');
const { PrebootedVm } = await import('../../../src/cell/prebooted-vm.js');
const { listRunDirs, RunDir } = await import('../../../src/cell/run-dir.js');
const { verify } = await import('../../../src/cell/verify.js');
const { loadCatalogue, findRow } = await import('../../../src/distro/catalogue.js');
const { MatrixStore, filesOf } = await import('../../../src/engine/matrix-store.js');
const { download } = await import('../../../src/lib/download.js');
const { scratch } = await import('../../../src/lib/scratch.js');
const { publishRepository } = await import('../../../src/repo/publish.js');
const { deb, tar } = await import('../../unit/fixtures/deb.js');
const { elf, modinfo } = await import('../../unit/fixtures/elf.js');
const { facts } = await import('../../unit/fixtures/provenance.js');
const { frames, rows, standInGuest } = await import('../../unit/fixtures/guest.js');
type CellInput = import('../../../src/cell/types.js').CellInput;
type MatrixCell = import('../../../src/model/matrix.js').MatrixCell;

const RELEASE = '6.1.0-56-amd64';
const { signal } = new AbortController();
const out = join(dir, 'out');
const emit = (): void => steps.step();
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** What a mirror has. */
const IMAGE = Buffer.alloc(300_000, 'image');
async function mirror(): Promise<{ server: Server; url: string }> {
  const server = createServer((_, response) => response.end(IMAGE));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/image` };
}

/** A VM is a process that dies with this one. */
async function vmIn(folder: string): Promise<AsyncDisposable & { socketDir: string }> {
  const socketDir = join(folder, 'sockets');
  await fs.mkdir(socketDir, { recursive: true });
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', 'sleep', `9999${marker}`], {
    stdio: 'ignore',
  });
  return {
    socketDir,
    [Symbol.asyncDispose]: async () => {
      const gone = new Promise((resolve) => child.once('close', resolve));
      child.kill('SIGKILL');
      await gone;
    },
  };
}

const source = deb(
  tar(
    { name: './usr/src/foo-1/dkms.conf', body: 'PACKAGE_NAME=foo\nPACKAGE_VERSION=1\n' },
    { name: './etc/modprobe.d/foo.conf', body: 'options foo x=1\n' },
  ),
  'Package: foo-dkms\nVersion: 1-1\nArchitecture: all\n',
);
const ko = elf([['.modinfo', modinfo({ vermagic: `${RELEASE} SMP ` })]]);
const meta = { modules: [{ name: 'foo', version: '1', ko: [{ dest: 'foo.ko', blob: 0 }], log: 1 }] };
const { guest } = standInGuest({
  'build.sh': { stdout: rows('announce foo 1', 'build-seconds foo/1 3', 'module foo 1 built foo.ko') },
  'collect.py': {
    stdout: frames([
      ['ko', ko],
      ['log', 'make says\n'],
      ['meta', JSON.stringify(meta)],
    ]),
  },
  'verify.py': { stdout: rows('doing load foo', 'load foo loaded') },
});

await listRunDirs();
{
  await using place = await scratch();
  await fs.writeFile(join(place.dir, 'note'), 'x');
}
const { server, url } = await mirror();
const to = join(dir, 'cache', 'images', `${sha256(IMAGE)}.qcow2`);
await fs.mkdir(join(to, '..'), { recursive: true });
await download({ url, to, digest: { algorithm: 'sha256', hex: sha256(IMAGE) }, emit, proxy: '' });
server.close();
const layer = await cached('layers', 'ab'.repeat(16), async (folder) => {
  await fs.writeFile(join(folder, 'config'), '# nothing\n');
  await fs.writeFile(join(folder, 'packages'), 'bash\t5.2-1\t\tamd64\n');
  return { name: 'layer' };
});

await using store = await MatrixStore.open(out, emit);
const before = await store.interrupted();
await store.begin(
  { schemaVersion: 1, run: 'run', startedAt: '2026-01-01T00:00:00.000Z', ids: ['a'] },
  before?.finished ?? [],
);

const run = await RunDir.create({ cell: 'foo', kernel: RELEASE, distro: 'debian-12' });
const phases: Record<string, number> = {};
const path = join(run.dir, 'foo.deb');
await fs.writeFile(path, source);
const boot = async () => {
  const vm = await vmIn(run.dir);
  return {
    vm: { ...vm, sshPort: 1, cutEgress: () => Promise.resolve() },
    guest,
    [Symbol.asyncDispose]: vm[Symbol.asyncDispose],
  };
};
const input = {
  label: 'foo × k',
  source: { kind: 'deb', text: 'foo', path },
  otherSources: [],
  target: { release: RELEASE, distro: 'debian-12', arch: 'x86_64' },
  environment: {
    layer: {
      boot: { kind: 'direct' },
      config: join(layer.dir, 'config'),
      ...{ entry: layer, kernelPackages: [], buildPackages: [], versions: {}, image: facts().image },
    },
    snapshot: null,
  },
  lookup: { row: findRow(await loadCatalogue(), 'debian-12') },
  machine: { accel: 'tcg', emit, signal, arch: 'x86_64' },
  ...{ outDir: out, signer: null, nameStyle: 'release', verify: true, timeoutMs: 1000 },
  invocation: { id: 'run', options: facts().options, signer: null },
} as unknown as CellInput;
try {
  await using verifyVm = new PrebootedVm(boot as never);
  const built = await compile({
    ...{ input, startedOn: new Date(0), phases, identity: 'a'.repeat(64), run, verifyVm },
    phase: phaseTimer(phases, emit, 'foo'),
    prepared: {
      ...{ source: input.source, package: null, with: [], brings: [] },
      ...{ digest: sha256(source), network: false },
    },
    conditions: { compiler: null, jobs: 1, boot: boot as never },
  });
  const verified = await verify(await pack(built));
  const { results, records } = await deliver(verified);
  await remember(input, 'a'.repeat(64), records);
  const row = {
    ...resultsOf(verified)[0]!,
    ...results[0]!,
    source: 'foo',
    outcome: 'built',
    expected: null,
  } as MatrixCell;
  const finished = { ...row, signedBy: null, logTail: null, startedAt: null, seconds: 1, worker: null };
  await store.append({ id: 'a', rows: [finished], accelerator: 'tcg', files: await filesOf([finished]) });
  await publishRepository(out, { emit, signal });
  await store.end({
    ...{ schemaVersion: 1, run: '20260101T000000-ab', tool: '0', startedAt: '', endedAt: '', complete: true },
    ...{ accelerators: [], kernels: [], sources: [], cells: [finished] },
  });
} finally {
  await run.close();
  await layer.use.release();
}
console.log(JSON.stringify({ steps: steps.count }));
