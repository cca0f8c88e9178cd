import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { requestOf, type RequestValues } from '../../../src/options/request.js';
import { planBisect } from '../../../src/engine/bisect.js';
import { FileServer, putRepo } from '../fixtures/file-server.js';

let server: FileServer;
let cache: string;
beforeAll(async () => {
  server = await new FileServer().open();
});
afterAll(() => server.close());
beforeEach(async () => {
  cache = await mkdtemp(join(tmpdir(), 'bisect-'));
  vi.stubEnv('DKMS2BIN_CACHE', cache);
  server.files.clear();
  putRepo(server, '/9/BaseOS/x86_64/os', [
    ...['503.40.1.el9_5', '503.9.1.el9_5', '503.11.1.el9_5', '427.el9', '570.el9_6'].map((release) => ({
      ...{ name: 'kernel-core', evr: `5.14.0-${release}` },
    })),
  ]);
  putRepo(server, '/9/NFV/x86_64/os', [{ name: 'kernel-rt-core', evr: '5.14.0-503.11.1.el9_5' }]);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(cache, { recursive: true, force: true, maxRetries: 10 });
});

const el = (release: string): string => `5.14.0-${release}.x86_64`;
const quiet = { emit: () => undefined, signal: new AbortController().signal };
function planned(good: string, bad: string, more: RequestValues = {}) {
  const options = { dkms: ['acpi-call-dkms'], distro: 'rocky-9', mirror: server.origin, proxy: '', ...more };
  return planBisect(requestOf(options, cache), { good, bad }, quiet);
}

test('the list is that of the archive between the two, of their kind, in the order of versions', async () => {
  const { cells, request } = await planned(el('427.el9'), el('503.40.1.el9_5'));
  const kernels = [el('427.el9'), el('503.9.1.el9_5'), el('503.11.1.el9_5'), el('503.40.1.el9_5')];
  expect(cells.map(({ kernel }) => kernel)).toEqual(kernels);
  expect(request.kernels).toEqual(kernels);
});

test('--kernel says which', async () => {
  const { cells } = await planned(el('427.el9'), el('570.el9_6'), {
    kernels: ['*503.[19]*', el('570.el9_6')],
  });
  expect(cells.map(({ kernel }) => kernel)).toEqual(
    ['427.el9', '503.9.1.el9_5', '503.11.1.el9_5', '570.el9_6'].map(el),
  );
});

test.each([
  [el('570.el9_6'), el('427.el9'), 'is not older than'],
  [el('427.el9'), el('427.el9'), 'is not older than'],
  [el('427.el9'), `${el('503.11.1.el9_5')}+rt`, 'of different kinds'],
  ['latest', el('427.el9'), 'are exact releases'],
])('%s to %s is refused', async (good, bad, message) => {
  await expect(planned(good, bad)).rejects.toMatchObject({
    fault: 'usage',
    message: expect.stringContaining(message) as string,
  });
});

test('one module at a time', async () => {
  const two = { dkms: ['acpi-call-dkms', 'other-dkms'] };
  await expect(planned(el('427.el9'), el('570.el9_6'), two)).rejects.toThrow('names 2');
});
