import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { PACKAGE_ROOT } from '../../src/lib/paths.js';
import { environment, standardVariable, takeVariable, variable, VARIABLES } from '../../src/lib/variables.js';

afterEach(() => void vi.unstubAllEnvs());

test('a variable that is set to nothing counts as not set', () => {
  expect(variable('DKMS2BIN_CACHE', { DKMS2BIN_CACHE: '' })).toBeUndefined();
  expect(variable('DKMS2BIN_CACHE', { DKMS2BIN_CACHE: '/c' })).toBe('/c');
  expect(standardVariable('XDG_CACHE_HOME', { XDG_CACHE_HOME: '' })).toBeUndefined();
});

test('proxies are read in capitals too, but not HTTP_PROXY, which a header could set', () => {
  const env = {
    HTTPS_PROXY: 'http://s',
    HTTP_PROXY: 'http://p',
    NO_PROXY: 'x',
    all_proxy: '',
    ALL_PROXY: 'a',
  };
  expect(standardVariable('https_proxy', env)).toBe('http://s');
  expect(standardVariable('https_proxy', { ...env, https_proxy: 'http://low' })).toBe('http://low');
  expect(standardVariable('http_proxy', env)).toBeUndefined();
  expect(standardVariable('no_proxy', env)).toBe('x');
  expect(standardVariable('all_proxy', env)).toBe('a');
});

test('a variable that is taken is not inherited by later processes', () => {
  vi.stubEnv('DKMS2BIN_SIGN_PASSPHRASE', 'secret');
  expect(takeVariable('DKMS2BIN_SIGN_PASSPHRASE')).toBe('secret');
  expect(environment()).not.toHaveProperty('DKMS2BIN_SIGN_PASSPHRASE');
  expect(takeVariable('DKMS2BIN_SIGN_PASSPHRASE')).toBeUndefined();
});

const sources = readdirSync(join(PACKAGE_ROOT, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => ({ name, text: readFileSync(join(PACKAGE_ROOT, 'src', name), 'utf8') }));

test('the environment is read in one place and at the edge', () => {
  const readers = sources.filter(({ text }) => text.includes('process.env')).map(({ name }) => name);
  expect(readers.filter((name) => !/^(?:lib\/variables|main|cli\/.+)\.ts$/.test(name))).toEqual([]);
});

test('the table has every variable of the tool that the program names', () => {
  const named = new Set(sources.flatMap(({ text }) => text.match(/\bDKMS2BIN_[A-Z_]+/g) ?? []));
  expect([...named].sort()).toEqual(Object.keys(VARIABLES).sort());
});
