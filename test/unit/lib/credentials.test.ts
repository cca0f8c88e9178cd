import { inspect } from 'node:util';
import { expect, test } from 'vitest';
import { credentialsFor, withoutCredentials } from '../../../src/lib/credentials.js';
import { buildRequest } from '../../../src/options/request.js';
import { url as urlForm } from '../../../src/options/forms.js';
import { schemaOf } from '../../../src/options/schemas.js';

test('a URL is shown without its user and password, which requests to it and below it get', () => {
  expect(withoutCredentials('https://me:s%40cret@mirror.example/debian')).toBe(
    'https://mirror.example/debian',
  );
  const login = { username: 'me', password: 's@cret' };
  expect(credentialsFor('https://mirror.example/debian/dists/x/InRelease')).toEqual(login);
  expect(credentialsFor('https://mirror.example/debian-security/dists/x')).toEqual(login);
});

test.each([
  'http://mirror.example/debian/x',
  'https://mirror.example/debian2/x',
  'https://mirror.example/other',
  'https://mirror.example.evil/debian/x',
  'https://mirror.example:8443/debian/x',
])('%s is another place, and gets none', (url) => {
  withoutCredentials('https://me:secret@mirror.example/debian');
  expect(credentialsFor(url)).toBeUndefined();
});

test('a host whose name begins as one with a password gets none', () => {
  withoutCredentials('https://me:secret@whole.example/');
  expect(credentialsFor('https://whole.example/a')).toBeDefined();
  expect(credentialsFor('https://whole.example-security/a')).toBeUndefined();
});

test('what is without a user stays as it was written', () => {
  for (const url of [
    'http://a.example',
    'http://a.example/',
    './folder',
    'redis://u:p@h/0',
    'http://a.example/x@y',
  ])
    expect(withoutCredentials(url)).toBe(url);
});

test('neither an option nor a request holds a password', () => {
  expect(schemaOf(urlForm).parse('http://u:hunter2@proxy.example:3128')).toBe('http://proxy.example:3128');
  const request = buildRequest({
    mirror: 'http://u:hunter2@a.example/debian',
    archive: 'http://u:hunter2@b.example',
    proxy: 'http://u:hunter2@c.example:1',
    kernelPackages: ['https://u:hunter2@d.example/linux-image.deb'],
  });
  expect(inspect(request)).not.toContain('hunter2');
  expect(request.proxy).toBe('http://c.example:1');
  expect(credentialsFor('http://c.example:1')).toEqual({ username: 'u', password: 'hunter2' });
});
