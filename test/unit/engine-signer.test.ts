import { expect, test } from 'vitest';
import { buildRequest } from '../../src/options/request.js';
import { fingerprintOf, signerOf } from '../../src/engine/signer.js';

const context = { emit: () => undefined, signal: new AbortController().signal };
const KEYS = { signKey: 'no.key', signCert: 'no.crt', cwd: '/nowhere' };

test('without a key modules stay unsigned', async () => {
  expect(await signerOf(buildRequest({}), ['3.13.0-77-generic'], context)).toBeNull();
  expect(await fingerprintOf(buildRequest({}))).toBeNull();
});

test.each([
  ['key', { signCert: 'a.crt' }],
  ['cert', { signKey: 'a.key' }],
])('half of a pair is refused: the %s is missing', async (half, values) => {
  await expect(signerOf(buildRequest(values), [], context)).rejects.toThrow(`--sign-${half} is missing`);
});

test('kernels before 4.3 are refused before the key is opened', async () => {
  const request = buildRequest(KEYS);
  for (const release of ['3.13.0-77-generic', '4.2.0-1-amd64'])
    await expect(signerOf(request, ['6.1.0-1-amd64', release], context)).rejects.toThrow(
      `Modules for ${release} cannot be signed`,
    );
  for (const release of ['4.3.0-1-amd64', '10.0.0-1-amd64'])
    await expect(signerOf(request, [release], context)).rejects.toThrow('Cannot read the certificate');
});
