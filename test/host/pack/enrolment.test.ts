import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readRpmFile } from '../../../src/formats/rpm.js';
import { addEnrolment } from '../../../src/engine/enrolment.js';
import { modulesOfPackages } from '../../../src/engine/published-modules.js';
import { makeKeyPair, type KeyPair } from '../../../src/pack/keygen.js';
import { scan } from '../../../src/repo/package-files.js';
import { publishQuietly } from '../../unit/fixtures/repository.js';
import { asRoot, good } from '../fixtures/apt.js';
import { hasTool } from '../fixtures/has-tool.js';
import { putFile } from '../fixtures/put.js';
import { RpmRoot } from '../fixtures/rpm-root.js';

// What its scripts do is for a real firmware: test/vm/enforce.test.ts.
const { signal } = new AbortController();
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
  await addEnrolment(repo, authority.cert, signal);
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
  await addEnrolment(repo, authority.der!, signal);
  expect(readdirSync(repo)).toEqual([file]);
  expect(readFileSync(deb)).toEqual(before);
  await publishQuietly(repo);
  expect(readFileSync(join(repo, 'Packages'), 'utf8')).toContain(`Package: ${name}\n`);
  const { packages } = await scan(repo, signal);
  expect(await modulesOfPackages(repo, packages)).toEqual({ published: [], unknown: [] });
});

describe('of a folder with .rpm packages', () => {
  /** The package, made beside one of a module; its scripts. */
  async function made(): Promise<{ path: string; scripts: Record<'post' | 'preun', string> }> {
    mkdirSync(join(tmp, 'rpm'));
    const on = new RpmRoot(join(tmp, 'rpm'));
    on.empty('other', '1', '1');
    await addEnrolment(on.repo, authority.cert, signal);
    const [file = '', ...more] = readdirSync(on.repo).filter((name) => name.startsWith('module-key-'));
    expect([file, more]).toEqual([expect.stringMatching(/^module-key-\S+-1\.noarch\.rpm$/), []]);
    const path = join(on.repo, file);
    const { packages } = await scan(on.repo, signal);
    expect((await modulesOfPackages(on.repo, packages)).unknown).toEqual([
      expect.stringMatching(/^other-1-1\.rpm/),
    ]);
    const tag = (name: string): string =>
      execFileSync('rpm', ['-qp', '--nosignature', '--qf', `%{${name}}`, path], { encoding: 'utf8' });
    expect([tag('POSTINPROG'), tag('PREUNPROG')]).toEqual(['/bin/sh', '/bin/sh']);
    return { path, scripts: { post: tag('POSTIN'), preun: tag('PREUN') } };
  }

  /** Runs a script where mokutil answers so; what it asked mokutil, and what it said. */
  function run(script: string, answer: string, ...args: string[]): { asked: string[]; said: string } {
    const bin = join(tmp, 'bin');
    mkdirSync(bin, { recursive: true });
    rmSync(join(tmp, 'asked'), { force: true });
    const mokutil = `#!/bin/sh\necho "$*" >>${tmp}/asked\ncase $1 in --test-key) echo "${answer}" ;; --list-new) echo '[key 1]' ;; esac\n`;
    putFile(bin, 'mokutil', mokutil, 0o755);
    mkdirSync(join(tmp, 'sys/firmware/efi/efivars'), { recursive: true });
    mkdirSync(join(tmp, 'root'), { recursive: true });
    const text = script.replaceAll(/(?<![\w/])\/(?=(?:sys|etc|usr\/share|root)\/)/g, `${tmp}/`);
    const env = { PATH: `${bin}:${process.env.PATH}` };
    const { stderr, status } = spawnSync('sh', ['-c', text, 'sh', ...args], { env, encoding: 'utf8' });
    expect(status, stderr).toBe(0);
    const asked = readFileSync(join(tmp, 'asked'), 'utf8').trimEnd().split('\n');
    return { asked: asked.map((line) => line.replaceAll(`${tmp}/`, '/')), said: stderr };
  }

  const NAME = 'module-key-modules-of-example.org';
  const DER = `/usr/share/module-keys/${NAME}.der`;

  test('rpm takes it, with the certificate in it', async (context) => {
    if (!hasTool('rpmbuild')) context.skip('rpmbuild is not installed');
    const { path } = await made();
    const query = (...what: string[]): string =>
      execFileSync('rpm', ['-qp', '--nosignature', ...what, path], { encoding: 'utf8' });
    expect(query('--requires').split('\n')).toEqual(expect.arrayContaining(['/bin/sh', 'mokutil']));
    expect([query('-l'), query('--configfiles')]).toEqual([`${DER}\n`, '']);
    const { files } = await readRpmFile(path);
    expect(files[0]!.bytes()).toEqual(readFileSync(authority.der!));
    // rpm itself unpacks it, where nothing is to be run.
    mkdirSync(join(tmp, 'root'));
    const root = ['--root', join(tmp, 'root'), '--noscripts', '--nodeps', '--nosignature'];
    await good(asRoot('rpm', [...root, '-i', path]));
    expect(readFileSync(join(tmp, 'root', DER))).toEqual(readFileSync(authority.der!));
  });

  test('it asks the firmware by mokutil, with a password that is there before, and takes that back', async (context) => {
    if (!hasTool('rpmbuild')) context.skip('rpmbuild is not installed');
    const { scripts } = await made();
    const asks = `--test-key ${DER}`;
    const by = `--hash-file /etc/module-keys/${NAME}.hash`;
    const alone = run(scripts.post, 'not enrolled', '1');
    expect(alone.asked).toEqual([asks]);
    expect(alone.said).toMatch(
      /choose a password, reboot and confirm at the console: mokutil --import \S+\.der\n/,
    );
    putFile(tmp, `etc/module-keys/${NAME}.hash`, 'hash');
    expect(run(scripts.post, 'is not enrolled', '1').asked).toEqual([asks, `--import ${DER} ${by}`]);
    expect(run(scripts.post, 'is already enrolled', '1').asked).toEqual([asks]);
    expect(run(scripts.preun, 'is already in the enrollment request', '0').asked).toEqual([
      ...[asks, '--list-new', '--revoke-import'],
    ]);
    expect(run(scripts.preun, 'is already enrolled', '0').asked).toEqual([asks, `--delete ${DER} ${by}`]);
  });
});

test('a certificate that an authority vouches for is not what machines enrol', async () => {
  const { key, cert } = authority;
  const leaf = await makeKeyPair({ outDir: tmp, name: 'November', days: 1, kind: { under: { key, cert } } });
  await expect(addEnrolment(repo, leaf.cert, signal)).rejects.toThrow(/leaf\.pem is under an authority/);
  await expect(addEnrolment(repo, key, signal)).rejects.toThrow(/ca\.key is not an X\.509 certificate/);
  expect(readdirSync(repo)).toEqual([]);
});
