import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { kernelsOf } from '../../../src/cli/kernels-of.js';
import { requestOf } from '../../../src/options/request.js';
import { fetchKernelPackage } from '../../../src/distro/kernel-package.js';
import { plan } from '../../../src/engine/plan/plan.js';
import { cli } from '../fixtures/cli-harness.js';

let proxy: Server;
let url: string;
let asked: string[];
let folder: string;
let body: string | undefined;

beforeEach(async () => {
  asked = [];
  body = undefined;
  proxy = createServer((request, response) => {
    asked.push(request.url!);
    if (body === undefined) response.writeHead(404).end();
    else response.end(body);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  folder = await mkdtemp(join(tmpdir(), 'proxy-'));
  vi.stubEnv('DKMS2BIN_CACHE', folder);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  proxy.close();
  await rm(folder, { recursive: true });
});

const quiet = { emit: () => undefined, signal: new AbortController().signal };
const mirror = 'http://mirror.invalid/debian';
const indexes = [
  `${mirror}-security/dists/bookworm-security/InRelease`,
  `${mirror}/dists/bookworm-backports/InRelease`,
  `${mirror}/dists/bookworm-updates/InRelease`,
  `${mirror}/dists/bookworm/InRelease`,
];

test('kernels are listed through --proxy from --mirror; --offline asks nobody', async () => {
  const offline = kernelsOf('debian-12', { ...quiet, mirror, proxy: url, offline: true });
  await expect(offline).rejects.toMatchObject({ fault: 'not-found' });
  expect(asked).toEqual([]);
  expect(await kernelsOf('debian-12', { ...quiet, mirror, proxy: url })).toEqual([]);
  expect(asked.sort()).toEqual(indexes);
  expect(await kernelsOf('debian-12', { ...quiet, mirror, offline: true })).toEqual([]);
});

test('a plan reads indexes and the archive through --proxy', async () => {
  const archive = 'http://archive.invalid';
  const request = requestOf(
    { dkms: ['acpi-call-dkms'], kernels: ['6.1.0-99-amd64'], mirror, archive, proxy: url },
    folder,
  );
  await expect(plan(request, quiet)).rejects.toMatchObject({ fault: 'not-found' });
  expect(asked.sort()).toEqual([`${archive}/mr/binary/linux-image-6.1.0-99-amd64/`, ...indexes]);
});

test('the options of the command reach the engine', async () => {
  const seen: unknown[] = [];
  const listKernels = (distro: string | undefined, context: object): Promise<[]> => {
    const { mirror, proxy, offline } = context as Record<string, unknown>;
    seen.push({ distro, mirror, proxy, offline });
    return Promise.resolve([]);
  };
  await cli(['kernels', '--mirror', mirror, '--proxy', url, '--offline'], { listKernels });
  await cli(['kernels', '--distro', 'sid'], { listKernels });
  expect(seen).toEqual([{ mirror, proxy: url, offline: true }, { distro: 'sid' }]);
  expect((await cli(['kernels', '--proxy', 'nonsense'], { listKernels })).code).toBe(2);
});

test('a kernel package comes through the proxy, whole or not at all', async () => {
  const to = join(folder, 'linux-image.deb');
  const from = 'http://kernels.invalid/linux-image.deb';
  await expect(fetchKernelPackage(from, to, { ...quiet, proxy: url })).rejects.toMatchObject({
    fault: 'not-found',
  });
  await expect(readFile(to)).rejects.toThrow('ENOENT');
  body = 'a kernel';
  await fetchKernelPackage(from, to, { ...quiet, proxy: url });
  expect(await readFile(to, 'utf8')).toBe('a kernel');
  expect(asked).toEqual([from, from]);
});
