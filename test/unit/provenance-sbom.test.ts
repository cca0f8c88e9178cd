import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Spec, Validation } from '@cyclonedx/cyclonedx-library';
import { describe, expect, it } from 'vitest';
import { makeSbom, sbomText, writeSbom } from '../../src/attest/sbom.js';
import { facts, FILE, KO, RELEASE, sha256 } from './provenance-fixture.js';
import { fakeModule } from './pack-fixture.js';

const [main, common] = facts().packages as [
  ReturnType<typeof facts>['packages'][0],
  ReturnType<typeof facts>['packages'][0],
];
/** The official schema, strict: no unknown property anywhere. */
const validator = new Validation.JsonStrictValidator(Spec.Version.v1dot6);

describe('makeSbom', () => {
  it('is valid by the official schema', async () => {
    for (const record of [main, common]) {
      expect(await validator.validate(JSON.stringify(makeSbom(facts(), record)))).toBeNull();
    }
    const bad = { ...makeSbom(facts(), main), serialNumber: 'x' };
    expect(await validator.validate(JSON.stringify(bad))).not.toBeNull();
  });

  it('lists the files, the source, the kernel and what built it', () => {
    const bom = makeSbom(facts(), main);
    const { component } = bom.metadata;
    expect(component).toMatchObject({
      name: `acpi-call-modules-${RELEASE}`,
      version: '1.2.2',
      purl: `pkg:deb/dkms2bin/acpi-call-modules-${RELEASE}@1.2.2?arch=amd64&distro=debian-12`,
      hashes: [{ alg: 'SHA-256', content: main.sha256 }],
    });
    expect(component.components).toMatchObject([
      {
        type: 'file',
        name: KO,
        hashes: [{ alg: 'SHA-256', content: sha256(fakeModule(RELEASE)) }],
        licenses: [{ license: { name: 'GPL v2' } }],
      },
    ]);
    expect(component.pedigree?.ancestors[0]?.purl).toContain('acpi-call-dkms@1.2.2-2%2Bb1');
    const scopes = Object.fromEntries(bom.components.map((each) => [each.name, each.scope]));
    expect(scopes).toEqual({
      'acpi-call-dkms': 'excluded',
      helper: 'excluded',
      'gcc-12': 'excluded',
      dkms: 'excluded',
      [`linux-headers-${RELEASE}`]: 'excluded',
      [`linux-image-${RELEASE}`]: 'required',
    });
    expect(bom.metadata.timestamp).toBe('2020-01-01T00:00:00Z');
  });

  it('has dependencies that all exist, each reference once', () => {
    for (const record of [main, common]) {
      const bom = makeSbom(facts(), record);
      const refs = [
        bom.metadata.component,
        ...(bom.metadata.component.components ?? []),
        ...bom.components,
      ].map((each) => each['bom-ref']);
      expect(new Set(refs).size).toBe(refs.length);
      for (const { ref, dependsOn = [] } of bom.dependencies) {
        for (const each of [ref, ...dependsOn]) expect(refs).toContain(each);
      }
    }
  });

  it('says nothing of a kernel for files that every kernel shares', () => {
    const bom = makeSbom(facts(), common);
    expect(bom.components.map((each) => each.name)).toEqual(['acpi-call-dkms']);
    const other = facts({ kernel: '6.1.0-57-amd64', roles: { kernelImage: 'x' } });
    expect(makeSbom(other, common)).toEqual(bom);
  });

  it('depends on the input alone, and its serial number on all of it', () => {
    const run = { id: 'run-2', startedOn: new Date(0), finishedOn: new Date(1), phases: {} };
    const same = facts({ run, installed: facts().installed.reverse() });
    expect(JSON.stringify(makeSbom(same, main))).toBe(JSON.stringify(makeSbom(facts(), main)));
    const serial = makeSbom(facts(), main).serialNumber;
    expect(serial).toMatch(/^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(makeSbom(facts(), { ...main, sha256: '0'.repeat(64) }).serialNumber).not.toBe(serial);
    expect(makeSbom(facts({ epoch: 1 }), main).serialNumber).not.toBe(serial);
  });

  it('is published beside the package', async () => {
    const tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
    try {
      await writeSbom(join(tmp, FILE), sbomText(facts(), main));
      const text = readFileSync(join(tmp, `${FILE}.cdx.json`), 'utf8');
      expect(JSON.parse(text)).toEqual(makeSbom(facts(), main));
      expect(text).not.toContain('/home/');
    } finally {
      rmSync(tmp, { recursive: true });
    }
  });
});
