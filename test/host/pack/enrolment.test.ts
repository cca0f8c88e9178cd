import { execFileSync } from 'node:child_process';
import { mkdtempSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { addEnrolment } from '../../../src/engine/enrolment.js';
import { modulesOfPackages } from '../../../src/engine/published-modules.js';
import { makeKeyPair, type KeyPair } from '../../../src/pack/keygen.js';
import { scan } from '../../../src/repo/package-files.js';
import { publishQuietly } from '../../unit/fixtures/repository.js';
import { hasTool } from '../fixtures/has-tool.js';

// What its scripts do is for a real firmware: test/vm/enforce.test.ts.
let tmp: string;
let repo: string;
let authority: KeyPair;
beforeEach(async (context) => {
  if (!hasTool('dpkg-deb')) context.skip('dpkg-deb is not installed');
  tmp = mkdtempSync(join(tmpdir(), 'dk2b-enrol-'));
  repo = join(tmp, 'repo');
  mkdirSync(repo);
  authority = await makeKeyPair({ outDir: tmp, name: 'Modules of example.org', days: 9, kind: 'authority' });
});
afterEach(() => rmSync(tmp, { recursive: true, force: true }));

const field = (deb: string, name: string): string =>
  execFileSync('dpkg-deb', ['--field', deb, name], { encoding: 'utf8' }).trim();

test('the package carries the certificate, and scripts of debconf for it', async () => {
  await addEnrolment(repo, authority.cert);
  const [file = ''] = readdirSync(repo);
  const name = 'module-key-modules-of-example.org';
  expect(file).toMatch(new RegExp(`^${name}_20\\d\\d\\.\\d\\d\\.\\d\\d\\.\\d\\d\\.\\d\\d_all\\.deb$`));
  const deb = join(repo, file);
  expect(field(deb, 'Depends')).toBe('debconf (>= 0.5) | debconf-2.0, mokutil');
  execFileSync('dpkg-deb', ['--raw-extract', deb, join(tmp, 'x')]);
  expect(readFileSync(join(tmp, `x/usr/share/module-keys/${name}.der`))).toEqual(
    readFileSync(authority.der!),
  );
  for (const script of ['config', 'postinst', 'postrm']) {
    const path = join(tmp, 'x/DEBIAN', script);
    execFileSync('sh', ['-n', path]);
    expect(readFileSync(path, 'utf8')).not.toMatch(/@[A-Z]+@/);
  }
  const templates = readFileSync(join(tmp, 'x/DEBIAN/templates'), 'utf8');
  expect(templates.match(/^Template: .*$/gm)).toEqual([
    ...[`Template: ${name}/password`, `Template: ${name}/remove-password`],
  ]);
  expect(templates).toContain('The certificate Modules of example.org becomes');

  // Once more it is the same file, and no module is missing because of it.
  const before = readFileSync(deb);
  await addEnrolment(repo, authority.der!);
  expect(readdirSync(repo)).toEqual([file]);
  expect(readFileSync(deb)).toEqual(before);
  await publishQuietly(repo);
  expect(readFileSync(join(repo, 'Packages'), 'utf8')).toContain(`Package: ${name}\n`);
  const { packages } = await scan(repo, new AbortController().signal);
  expect(await modulesOfPackages(repo, packages)).toEqual({ published: [], unknown: [] });
});

test('a certificate that an authority vouches for is not what machines enrol', async () => {
  const { key, cert } = authority;
  const leaf = await makeKeyPair({ outDir: tmp, name: 'November', days: 1, kind: { under: { key, cert } } });
  await expect(addEnrolment(repo, leaf.cert)).rejects.toThrow(/leaf\.pem is under an authority/);
  await expect(addEnrolment(repo, key)).rejects.toThrow(/ca\.key is not an X\.509 certificate/);
  expect(readdirSync(repo)).toEqual([]);
});
