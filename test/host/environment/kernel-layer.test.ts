import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { catalogueOf } from '../../../src/distro/catalogue.js';
import { kernelLayer } from '../../../src/environment/kernel-layer.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dkms2bin-layer-'));
  for (const name of ['CACHE', 'STATE']) vi.stubEnv(`DKMS2BIN_${name}`, join(dir, name.toLowerCase()));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true, force: true });
});

/** Why the layer of a repository of kernels is made in a VM. Its image does not exist, so that neither way leads anywhere. */
async function whyInVm(signer: string): Promise<string[]> {
  const lines = [
    'Types: deb',
    'URIs: http://kernels.invalid/house',
    'Suites: bookworm',
    'Components: main',
    signer,
  ];
  await writeFile(join(dir, 'house.sources'), `${lines.join('\n')}\n`);
  const rows = await catalogueOf({ cwd: dir, kernelRepos: ['house.sources'] });
  const row = rows.find(({ overlay }) => overlay?.asked)!;
  const said: string[] = [];
  const layer = kernelLayer(
    {
      base: {
        ...{
          disk: join(dir, 'disk.qcow2'),
          root: { tar: join(dir, 'root.tar.zst'), offset: 0 },
          hash: 'h',
          row,
        },
        ...{ parents: [], firmware: 'bios', source: 'bootstrap', origin: { kind: 'bootstrap' } as never },
      },
      target: { release: '6.12.4-house', distro: row.id, arch: 'x86_64' },
      ...{ variant: 'build', kernelPackages: [], buildPackages: { names: [], files: [] } },
    },
    {
      ...{
        arch: 'x86_64',
        accel: 'tcg',
        cpu: 'max',
        cpus: 1,
        memoryMiB: 512,
        mirror: 'http://mirror.invalid/debian',
      },
      emit: (event) => void (event.type === 'note' && said.push(event.message)),
      signal: new AbortController().signal,
    },
  );
  await expect(layer).rejects.toThrow();
  return said;
}

test('packages that nobody signs are installed in no other place than a VM', async () => {
  expect(await whyInVm('Trusted: yes')).toEqual([
    expect.stringMatching(
      /made in a VM.*: nobody signs the packages of http:\/\/kernels\.invalid\/house, a repository of house/,
    ),
  ]);
});
