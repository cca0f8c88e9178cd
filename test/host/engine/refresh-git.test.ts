import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { writeProvenance } from '../../../src/attest/provenance.js';
import { makeStatement } from '../../../src/attest/statement.js';
import { localDigest } from '../../../src/cell/source.js';
import { parseModuleSource } from '../../../src/engine/plan/source.js';
import { planRefresh } from '../../../src/engine/refresh.js';
import type { Event } from '../../../src/model/events.js';
import { buildRequest } from '../../../src/options/request.js';
import { facts, FILE, packageBytes, RELEASE } from '../../unit/fixtures/provenance.js';
import { GitServer, Repository } from '../fixtures/git-server.js';

// From a package whose provenance names a git repository to the plan of what is built again. The distro's kernels stand in.
vi.mock('../../../src/distro/kernels.js', async (original) => ({
  ...(await original<object>()),
  offeredKernels: () =>
    Promise.resolve({
      kernels: [{ release: RELEASE, packageVersion: '6.1.192-2', suite: 'bookworm' }],
      metas: [],
      heads: [RELEASE],
    }),
}));

let dir: string;
let server: GitServer;
let repository: Repository;
const { signal } = new AbortController();
const events: Event[] = [];
const context = { emit: (event: Event) => void events.push(event), signal };
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'refresh-git-'));
  vi.stubEnv('DKMS2BIN_CACHE', join(dir, 'cache'));
  vi.stubEnv('http_proxy', '');
  vi.stubEnv('all_proxy', '');
  server = await new GitServer(join(dir, 'srv')).open();
  repository = new Repository(join(dir, 'srv', 'r'));
  repository.commit({
    'dkms.conf': 'PACKAGE_NAME="acpi_call"\nPACKAGE_VERSION="1.2.2"\n',
    'acpi_call.c': 'int x;\n',
  });
});
afterEach(async () => {
  vi.unstubAllEnvs();
  server.close();
  await rm(dir, { recursive: true, force: true });
});

/** A package in the out-dir that was built of what the URL names now. */
async function publish(url: string): Promise<void> {
  const [source] = await parseModuleSource(url, { cwd: dir, proxy: '', ...context });
  if (source?.kind !== 'tarball') throw new Error('no git source');
  const { text, origin } = source;
  const digest = { sha256: await localDigest(source, signal) };
  const out = join(dir, 'out');
  await mkdir(out, { recursive: true });
  await writeFile(join(out, FILE), packageBytes());
  const record = { kind: 'tarball', text, digest, ...(origin && { origin }) } as const;
  await writeProvenance(join(out, FILE), makeStatement(facts({ source: record, buildDepends: [] })));
}

const plan = (offline = false) =>
  planRefresh(
    buildRequest({ cwd: dir, outDir: 'out', proxy: '', offline }),
    { newest: false, validate: [] },
    context,
  );

test('a branch that has moved is a newer source; one that has not is none', async () => {
  await publish(`git+${server.url('r')}#main`);
  expect(await plan()).toMatchObject({ cells: [], blocked: [] });
  const moved = repository.commit({ 'acpi_call.c': 'int y;\n' });
  const { cells, wanted, blocked } = await plan();
  expect(blocked).toEqual([]);
  expect(wanted).toMatchObject([
    { modules: ['acpi_call'], why: expect.stringMatching(/^new commit [0-9a-f]{12} → /) as string },
  ]);
  expect(cells).toMatchObject([{ module: { kind: 'tarball', origin: { commit: moved } } }]);
});

test('a commit never changes, and a repository that is gone is told', async () => {
  const commit = repository.commit({ 'more.c': 'int z;\n' });
  await publish(`git+${server.url('r')}#${commit}`);
  repository.commit({ 'acpi_call.c': 'int y;\n' });
  expect((await plan()).cells).toEqual([]);
  await rm(join(dir, 'out'), { recursive: true });
  await publish(`git+${server.url('r')}#main`);
  await rm(join(dir, 'srv', 'r'), { recursive: true });
  events.length = 0;
  expect((await plan()).cells).toEqual([]);
  const told = events.flatMap((event) =>
    event.type === 'note' && event.level === 'warn' ? [event.message] : [],
  );
  expect(told).toEqual([
    expect.stringMatching(/^Whether .*#main, the source of acpi_call, has changed is not known: /),
  ]);
});
