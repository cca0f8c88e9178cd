import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { findRow, loadCatalogue } from '../../../src/distro/catalogue.js';
import type * as Packages from '../../../src/distro/dkms-package.js';
import type { ModuleSource } from '../../../src/model/cell.js';
import { buildRequest } from '../../../src/options/request.js';
import { sourcePackage } from '../fixtures/cell.js';

let dir: string;
let lookUp: () => Promise<string>;

beforeEach(() => {
  // Loaded anew: tests that ran in this process before have loaded the real one.
  vi.resetModules();
  // What the distro's index and mirror would give.
  vi.doMock('../../../src/distro/dkms-package.js', async (original) => ({
    ...(await original<typeof Packages>()),
    findDkmsPackage: () => Promise.resolve({ name: 'foo-dkms', version: '1-1', verified: true }),
    fetchDkmsPackage: () => lookUp(),
  }));
  dir = mkdtempSync(join(tmpdir(), 'twins-'));
  const file = join(dir, 'foo-dkms.deb');
  writeFileSync(file, sourcePackage());
  lookUp = () => Promise.resolve(file);
});
afterEach(() => {
  vi.doUnmock('../../../src/distro/dkms-package.js');
  vi.resetModules();
  rmSync(dir, { recursive: true });
});

const REPO: ModuleSource = { kind: 'repo', text: 'foo-dkms', name: 'foo-dkms' };
function folder(text: string, version = '1'): ModuleSource {
  const path = join(dir, text);
  mkdirSync(path);
  writeFileSync(join(path, 'dkms.conf'), `PACKAGE_NAME=foo\nPACKAGE_VERSION=${version}\n`);
  return { kind: 'folder', text, path };
}

async function refuse(...sources: ModuleSource[]): Promise<void> {
  const { refuseTwins } = await import('../../../src/engine/plan/twins.js');
  const rows = await loadCatalogue();
  const target = {
    release: '6.1.0-56-amd64',
    distro: findRow(rows, 'debian-12').id,
    arch: 'x86_64',
  } as const;
  const context = { emit: () => undefined, signal: new AbortController().signal };
  await refuseTwins(sources, [target], { request: buildRequest({ cwd: dir }), rows, context });
}

test('two sources of one module and version are refused, also when one is a name of the repository', async () => {
  const one = folder('one');
  const message = (first: string, second: string) => ({
    fault: 'usage',
    message: `Two sources bring the module foo/1: ${first} and ${second}`,
  });
  await expect(refuse(one, folder('two'))).rejects.toMatchObject(message('one', 'two'));
  await expect(refuse(REPO, one)).rejects.toMatchObject(message("the distro's package foo-dkms", 'one'));
  await expect(refuse(one, REPO)).rejects.toMatchObject(message('one', "the distro's package foo-dkms"));
});

test('other versions, one source twice, and a package that cannot be had are none', async () => {
  const one = folder('one');
  await refuse(one, one);
  await refuse(REPO, REPO);
  await refuse(REPO, folder('two', '2'));
  const { Dkms2binError } = await import('../../../src/model/errors.js');
  lookUp = () => Promise.reject(new Dkms2binError('transient', 'no mirror'));
  await refuse(REPO, one);
});
