import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { generateKeyPairSync } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Dkms2binError } from '../../../src/model/errors.js';
import { payloadOf, readEnvelope, readSigner, verifyEnvelope } from '../../../src/attest/dsse.js';
import { makeBundle, readBundle, writeProvenance } from '../../../src/attest/provenance.js';
import { makeStatement } from '../../../src/attest/statement.js';
import { packagePurl } from '../../../src/attest/purl.js';
import { facts, FILE, KO, RELEASE, sha256 } from '../fixtures/provenance.js';
import { fakeModule } from '../fixtures/elf.js';

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

const pair = generateKeyPairSync('ed25519');
const signer = readSigner(pair.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), 'key.pem');

describe('makeStatement', () => {
  it('is an in-toto statement with a SLSA provenance of the fields that the specification requires', () => {
    const statement = makeStatement(facts());
    expect(statement._type).toBe('https://in-toto.io/Statement/v1');
    expect(statement.predicateType).toBe('https://slsa.dev/provenance/v1');
    const { buildDefinition, runDetails } = statement.predicate;
    for (const uri of [buildDefinition.buildType, runDetails.builder.id]) {
      expect(URL.canParse(uri), uri).toBe(true);
    }
    expect(statement.subject[0]?.name).toBe(FILE);
    expect(statement.subject[1]).toEqual({
      name: `${FILE}${KO}`,
      digest: { sha256: sha256(fakeModule(RELEASE)) },
    });
    expect(statement.subject).toHaveLength(3);
    const names = statement.subject.map((each) => each.name);
    expect(new Set(names).size).toBe(names.length);
    for (const { digest } of statement.subject) expect(digest.sha256).toMatch(/^[0-9a-f]{64}$/);
    // No descriptor without one of uri, digest and content.
    for (const each of [...buildDefinition.resolvedDependencies, ...runDetails.byproducts]) {
      expect(each.uri ?? each.digest, JSON.stringify(each)).toBeDefined();
      if (each.uri !== undefined) expect(URL.canParse(each.uri)).toBe(true);
    }
    expect(runDetails.metadata).toMatchObject({
      invocationId: 'run-1',
      startedOn: '2026-11-24T06:00:00Z',
      finishedOn: '2026-11-24T06:01:00Z',
    });
    expect(runDetails.builder.version).toEqual({ dkms2bin: '0.1.0', qemu: '7.2.19', accelerator: 'tcg' });
    expect(runDetails.byproducts[0]).toMatchObject({ name: 'acpi_call.log' });
  });

  it('of what was fetched says where it came from, and reads it again', async () => {
    const commit = 'c'.repeat(40);
    const origin = { url: 'https://forge.example/o/r.git', commit };
    const text = 'https://forge.example/o/r.git#main:src';
    const source = { kind: 'tarball' as const, text, origin, digest: { sha256: 'a'.repeat(64) } };
    const statement = makeStatement(facts({ source }));
    const { resolvedDependencies } = statement.predicate.buildDefinition;
    expect(resolvedDependencies.find((each) => each.annotations?.role === 'source')).toEqual({
      name: text,
      uri: `git+https://forge.example/o/r.git@${commit}`,
      digest: { sha256: 'a'.repeat(64), gitCommit: commit },
      annotations: { role: 'source' },
    });
    const path = join(tmp, 'x.deb');
    await writeProvenance(path, statement);
    expect((await readBundle(`${path}.intoto.jsonl`))[0]?.cell).toMatchObject({
      ...{ source: { kind: 'tarball', name: text, origin }, digest: 'a'.repeat(64) },
      ...{ sourcePackage: null, sourceVersion: null },
    });
  });

  it('names every input', () => {
    const { resolvedDependencies, externalParameters } = makeStatement(facts()).predicate.buildDefinition;
    const byRole = new Map(resolvedDependencies.map((each) => [each.annotations?.role, each]));
    expect(byRole.get('source')).toEqual({
      name: 'acpi-call-dkms',
      uri: 'pkg:deb/debian/acpi-call-dkms@1.2.2-2%2Bb1?arch=all&distro=debian-12',
      digest: { sha256: 'a'.repeat(64) },
      annotations: { role: 'source' },
    });
    expect(byRole.get('build dependency')?.name).toBe('helper');
    expect(byRole.get('base image')).toMatchObject({
      digest: { sha256: 'e'.repeat(64) },
      annotations: { origin: 'bootstrap' },
    });
    expect(byRole.get('kernel package')).toMatchObject({ name: 'linux-image-x.deb' });
    expect(byRole.get('kernel image')?.uri).toBe(
      `pkg:deb/debian/linux-image-${RELEASE}@6.1.192-2?arch=amd64&distro=debian-12`,
    );
    expect(byRole.get('kernel headers')?.name).toBe(`linux-headers-${RELEASE}`);
    expect(byRole.get('compiler')?.name).toBe('gcc-12');
    expect(byRole.get('dkms')?.uri).toContain('dkms@3.0.10-8%2Bdeb12u1?arch=all');
    expect(byRole.get('toolchain')?.uri).toContain('zlib1g@1:1.2.13.dfsg-1?');
    expect(resolvedDependencies).toHaveLength(9);
    expect(externalParameters).toMatchObject({
      source: { kind: 'repo', name: 'acpi-call-dkms' },
      kernel: RELEASE,
      distro: 'debian-12',
      arch: 'x86_64',
    });
  });

  it('keeps what belongs to one run out of the build definition', () => {
    const one = makeStatement(facts());
    const run = { id: 'run-2', startedOn: new Date(0), finishedOn: new Date(1), phases: {} };
    const two = makeStatement(facts({ run, installed: facts().installed.reverse() }));
    expect(two.subject).toEqual(one.subject);
    expect(two.predicate.buildDefinition).toEqual(one.predicate.buildDefinition);
    expect(two.predicate.runDetails).not.toEqual(one.predicate.runDetails);
    const other = makeStatement(facts({ kernel: '6.1.0-57-amd64' }));
    expect(other.predicate.buildDefinition).not.toEqual(one.predicate.buildDefinition);
  });

  it('tells nothing of the host: no folders, no passwords', () => {
    const text = JSON.stringify(
      makeStatement(
        facts({
          options: { ...facts().options, image: '/home/me/x.qcow2', archive: 'https://u@snapshot.example/' },
          image: { origin: 'file', digest: { sha256: 'e'.repeat(64) } },
          source: { kind: 'tarball', text: '/home/me/x.tar.gz', digest: { sha256: 'a'.repeat(64) } },
        }),
      ),
    );
    expect(text).not.toMatch(/home|secret|me:pw|u@snapshot/);
    expect(text).toContain('http://mirror.example/debian');
    expect(text).toContain('x.qcow2');
  });
});

describe('packagePurl', () => {
  it.each([
    [
      packagePurl('deb', 'libstdc++6', '1:2~a+b', { distro: 'debian-12' }),
      'pkg:deb/debian/libstdc%2B%2B6@1:2~a%2Bb?distro=debian-12',
    ],
    [
      packagePurl('deb', 'x', '1', { distro: 'ubuntu-24.04', arch: 'amd64' }),
      'pkg:deb/ubuntu/x@1?arch=amd64&distro=ubuntu-24.04',
    ],
    [
      packagePurl('deb', 'X', '1', { distro: 'debian-sid', vendor: 'dkms2bin' }),
      'pkg:deb/dkms2bin/x@1?distro=debian-sid',
    ],
    [
      packagePurl('rpm', 'kernel-devel-X', '1:5.14-3.el9', { distro: 'rocky-9', arch: 'x86_64' }),
      'pkg:rpm/rocky/kernel-devel-X@5.14-3.el9?arch=x86_64&distro=rocky-9&epoch=1',
    ],
  ])('%s', (made, wanted) => expect(made).toBe(wanted));
});

describe('the bundle', () => {
  it('is one line: an envelope when there is a key, else the statement', async () => {
    const statement = makeStatement(facts());
    const path = join(tmp, FILE);
    await writeProvenance(path, statement);
    const unsigned = readFileSync(`${path}.intoto.jsonl`, 'utf8');
    expect(unsigned.split('\n')).toHaveLength(2);
    expect(JSON.parse(unsigned)).toEqual(statement);
    await writeProvenance(path, statement, signer);
    const envelope = readEnvelope(JSON.parse(readFileSync(`${path}.intoto.jsonl`, 'utf8')));
    expect(envelope?.payloadType).toBe('application/vnd.in-toto+json');
    expect(JSON.parse(payloadOf(envelope!).toString())).toEqual(statement);
    expect(verifyEnvelope(envelope!, pair.publicKey)).toBe(true);
  });

  it('is read back, other lines ignored', async () => {
    const path = join(tmp, 'x.intoto.jsonl');
    const signed = makeBundle(makeStatement(facts()), signer).toString();
    writeFileSync(path, `nonsense\n{"a":1}\n${signed}{"_type":"https://in-toto.io/Statement/v1"}\n`);
    const read = await readBundle(path, pair.publicKey);
    expect(read).toHaveLength(1);
    expect(read[0]).toMatchObject({ verified: true, keyids: [signer.keyid], invocationId: 'run-1' });
    expect((await readBundle(path))[0]?.verified).toBeNull();
    expect(read[0]?.cell?.sourcePackage).toBe('acpi-call-dkms');
    const other = generateKeyPairSync('ed25519').publicKey;
    expect((await readBundle(path, other))[0]?.verified).toBe(false);
    writeFileSync(path, makeBundle(makeStatement(facts())));
    expect((await readBundle(path, pair.publicKey))[0]?.verified).toBe(false);
  });

  it('is a clear error when it is cut anywhere', async () => {
    const path = join(tmp, 'x.intoto.jsonl');
    for (const whole of [makeBundle(makeStatement(facts())), makeBundle(makeStatement(facts()), signer)]) {
      for (let length = 0; length < whole.length - 1; length += 97) {
        writeFileSync(path, whole.subarray(0, length));
        await expect(readBundle(path), `${length} bytes`).rejects.toThrow(Dkms2binError);
      }
    }
  });
});
