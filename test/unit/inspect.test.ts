import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { engine } from '../../src/cli/services.js';
import type { Inspection } from '../../src/attest/inspect.js';
import { readSigner } from '../../src/attest/dsse.js';
import { writeProvenance } from '../../src/attest/provenance.js';
import { makeStatement } from '../../src/attest/statement.js';
import { cli } from './cli-harness.js';
import { elf, fakeModule, modinfo } from './pack-fixture.js';
import { facts, FILE, KO, packageBytes, RELEASE, sha256 } from './provenance-fixture.js';

let tmp: string;
let deb: string;
beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  deb = join(tmp, FILE);
  writeFileSync(deb, packageBytes());
});
afterEach(() => rmSync(tmp, { recursive: true }));

const inspect = (...args: string[]) =>
  cli(['inspect', ...args], { inspect: (path, options) => engine.inspect(path, options) });
const statement = makeStatement(facts());
const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const signer = readSigner(pair.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), 'key.pem');

function publicKey(key = pair.publicKey): string {
  const path = join(tmp, 'pub.pem');
  writeFileSync(path, key.export({ type: 'spki', format: 'pem' }));
  return path;
}

describe('a package', () => {
  it('is shown', async () => {
    const { code, stdout, stderr } = await inspect(deb);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(new RegExp(`^Package +acpi-call-modules-${RELEASE} 1\\.2\\.2 amd64$`, 'm'));
    expect(stdout).toMatch(/^Module +acpi_call 1\.2\.2$/m);
    expect(stdout).toMatch(new RegExp(`^ {2}kernel +${RELEASE}$`, 'm'));
    expect(stdout).toMatch(new RegExp(`^ {2}vermagic +${RELEASE} SMP preempt mod_unload modversions$`, 'm'));
    expect(stdout).toMatch(/^ {2}arch +x86_64$/m);
    expect(stdout).toMatch(/^ {2}signed +no$/m);
    expect(stdout).toContain(`0644 3.4 KiB ${KO}`);
    expect(stdout).toMatch(/^Provenance +none beside it$/m);
  });

  it('is shown as JSON', async () => {
    await writeProvenance(deb, statement);
    const { code, stdout } = await inspect(deb, '--json');
    expect(code).toBe(0);
    const found = JSON.parse(stdout) as Inspection & { schemaVersion: number };
    expect(found).toMatchObject({
      schemaVersion: 1,
      file: deb,
      kind: 'deb',
      bytes: packageBytes().length,
      sha256: sha256(packageBytes()),
      package: { name: `acpi-call-modules-${RELEASE}`, version: '1.2.2', architecture: 'amd64' },
      modules: [
        {
          path: KO,
          name: 'acpi_call',
          version: '1.2.2',
          kernel: RELEASE,
          arch: 'x86_64',
          signed: false,
          sha256: sha256(fakeModule(RELEASE)),
        },
      ],
      files: [{ path: KO, type: 'file', mode: '0644', bytes: fakeModule(RELEASE).length }],
      provenance: { matches: true, expected: sha256(packageBytes()), keyids: [], verified: null },
    });
  });

  it('is found to be signed', async () => {
    const signed = Buffer.concat([fakeModule(RELEASE), Buffer.from('x~Module signature appended~\n')]);
    writeFileSync(deb, packageBytes(signed));
    expect((await inspect(deb)).stdout).toMatch(/^ {2}signed +yes$/m);
  });
});

describe('provenance', () => {
  it('that matches is no fault, signed or not', async () => {
    await writeProvenance(deb, statement);
    const unsigned = await inspect(deb);
    expect(unsigned.code).toBe(0);
    expect(unsigned.stdout).toMatch(/^ {2}digest +matches$/m);
    expect(unsigned.stdout).toMatch(/signature +none: anybody may have written it/);
    await writeProvenance(deb, statement, signer);
    expect((await inspect(deb)).stdout).toContain(`${signer.keyid} (not checked, give --key)`);
    const checked = await inspect(deb, '--key', publicKey());
    expect(checked.code).toBe(0);
    expect(checked.stdout).toContain(`${signer.keyid} (verified)`);
    // By another name it is the same package.
    renameSync(deb, join(tmp, 'renamed.deb'));
    renameSync(`${deb}.intoto.jsonl`, join(tmp, 'renamed.deb.intoto.jsonl'));
    expect((await inspect(join(tmp, 'renamed.deb'))).code).toBe(0);
  });

  it('of other bytes exits with 1 and names both digests', async () => {
    await writeProvenance(deb, statement, signer);
    const bytes = packageBytes();
    // A member's time: a sound package still, only not this one.
    bytes[8 + 16] = 0x32;
    writeFileSync(deb, bytes);
    for (const args of [[], ['--json'], ['--key', publicKey()]]) {
      const { code, stdout, stderr } = await inspect(deb, ...args);
      expect(code).toBe(1);
      expect(stderr).toContain(sha256(bytes));
      expect(stderr).toContain(sha256(packageBytes()));
      expect(stderr).toContain('hint:');
      expect(stdout).toContain(sha256(bytes));
    }
  });

  it('of another file, or of one swapped within its own subjects, exits with 1', async () => {
    const other = join(tmp, 'other.deb');
    writeFileSync(other, packageBytes(fakeModule(RELEASE, 'other')));
    await writeProvenance(other, statement);
    const foreign = await inspect(other);
    expect(foreign.code).toBe(1);
    expect(foreign.stderr).toContain('does not speak of this file');
    const common = join(tmp, 'acpi-call-modules-common_1.2.2_all.deb');
    writeFileSync(common, packageBytes());
    await writeProvenance(common, statement);
    const swapped = await inspect(common);
    expect(swapped.code).toBe(1);
    expect(swapped.stderr).toContain('c'.repeat(64));
  });

  it('that another key signed, that nobody signed, or that is missing exits with 1 under --key', async () => {
    const key = publicKey(generateKeyPairSync('ed25519').publicKey);
    expect((await inspect(deb, '--key', key)).stderr).toContain('has no provenance beside it');
    for (const by of [signer, undefined]) {
      await writeProvenance(deb, statement, by);
      const { code, stderr } = await inspect(deb, '--key', key);
      expect(code).toBe(1);
      expect(stderr).toContain(`is not signed by ${key}`);
    }
  });

  it('forged and added to the bundle does not count under --key', async () => {
    const forged = packageBytes(fakeModule(RELEASE, 'evil'));
    const fake = makeStatement(
      facts({ packages: [{ ...facts().packages[0]!, sha256: sha256(forged), files: [] }] }),
    );
    await writeProvenance(deb, statement, signer);
    writeFileSync(deb, forged);
    const bundle = readFileSync(`${deb}.intoto.jsonl`, 'utf8');
    writeFileSync(`${deb}.intoto.jsonl`, `${JSON.stringify(fake)}\n${bundle}`);
    expect((await inspect(deb)).code).toBe(0);
    const { code, stderr } = await inspect(deb, '--key', publicKey());
    expect(code).toBe(1);
    expect(stderr).toContain(sha256(packageBytes()));
  });

  it('that cannot be read exits with 2', async () => {
    writeFileSync(`${deb}.intoto.jsonl`, '{"_type":"https://in-toto.io/Sta');
    const { code, stderr } = await inspect(deb);
    expect(code).toBe(2);
    expect(stderr).toContain('holds no SLSA provenance');
  });
});

describe('a module', () => {
  it.each([
    ['x.ko', (bytes: Buffer) => bytes],
    ['x.ko.gz', (bytes: Buffer) => gzipSync(bytes)],
  ])('%s is shown, and found in the provenance', async (name, pack) => {
    const path = join(tmp, name);
    const bytes = pack(fakeModule(RELEASE));
    writeFileSync(path, bytes);
    await writeProvenance(path, statement);
    const { code, stdout } = await inspect(path);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Module +acpi_call 1\.2\.2$/m);
    expect(stdout).toMatch(/^ {2}digest +matches$/m);
    expect(stdout.match(/SHA-256/g)).toHaveLength(name === 'x.ko' ? 1 : 2);
    writeFileSync(path, bytes.subarray(0, bytes.length / 2));
    expect((await inspect(path)).code).toBe(2);
  });

  it('cannot draw on the screen', async () => {
    const evil = elf([
      ['.modinfo', modinfo({ name: 'x\x1b[2J', version: '1\nProvenance  fine', vermagic: `${RELEASE} SMP` })],
    ]);
    writeFileSync(join(tmp, 'x.ko'), evil);
    const { stdout } = await inspect(join(tmp, 'x.ko'));
    expect(stdout).not.toContain('\x1b');
    expect(stdout.match(/^Provenance/gm)).toHaveLength(1);
  });
});

describe('what is neither', () => {
  it.each<[string, Buffer | string, string]>([
    ['text', 'hello\n', 'is neither a package nor a kernel module'],
    ['nothing', '', 'is empty'],
    ['a cut-off .rpm', Buffer.from('edabeedb0300', 'hex'), 'is not a readable RPM package: cut off'],
    ['a library', '!<arch>\nfoo.o/', 'is not a readable Debian package'],
    ['gzipped text', gzipSync('hello'), 'is neither'],
    ['an executable', readFileSync(process.execPath).subarray(0, 4096), 'Not a usable kernel module'],
  ])('%s exits with 2', async (_, bytes, why) => {
    const path = join(tmp, 'file');
    writeFileSync(path, bytes);
    const { code, stdout, stderr } = await inspect(path);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toContain(path);
    expect(stderr).toContain(why);
    expect(stderr).not.toMatch(/internal error|\bat .*\.ts/);
  });

  it('a missing file, a folder and a bad key exit with 2', async () => {
    for (const args of [[join(tmp, 'none')], [tmp], [deb, '--key', deb], [deb, '--key', join(tmp, 'none')]]) {
      expect((await inspect(...args)).code).toBe(2);
    }
  });

  it('a package cut anywhere exits with 2', async () => {
    const bytes = packageBytes();
    for (let length = 0; length < bytes.length; length += 13) {
      writeFileSync(deb, bytes.subarray(0, length));
      expect((await inspect(deb)).code, `${length} bytes`).toBe(2);
    }
  });
});
