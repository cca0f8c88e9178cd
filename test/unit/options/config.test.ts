import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadConfig, parseConfig } from '../../../src/options/config.js';
import { ResultDocument } from '../../../src/model/result-schema.js';

test('a whole file', () => {
  expect(
    parseConfig(
      'dkms: [a-dkms, ./b]\nkernel: latest\nout-dir: out\nverify: false\ntimeout: 45m\nmemory: 2G\n',
    ),
  ).toEqual({
    dkms: ['a-dkms', './b'],
    kernel: 'latest',
    'out-dir': 'out',
    verify: false,
    timeout: '45m',
    memory: '2G',
  });
  expect(parseConfig('# nothing yet\n')).toEqual({});
});

test.each([
  ['dkms: a\n\nkernles: b\n', /^dkms2bin\.yaml:3: unknown key kernles$/],
  ['outDir: a\n', /:1: unknown key outDir; did you mean out-dir\?/],
  ['no-verify: true\n', /did you mean verify: false\?/],
  ['dkms: a\naccel: xen\n', /:2: accel: /],
  ['dkms: a\ntimeout: soon\n', /:2: timeout: "soon" is not a time of 1 second to 7 days/],
  ['- a\n', /:1: the file must be a mapping/],
  ['dkms: [a\n', /dkms2bin\.yaml:\d: /],
])('the mistake in %j is named with its line', (text, message) => {
  expect(() => parseConfig(text)).toThrow(message);
  expect(() => parseConfig(text)).toThrow(expect.objectContaining({ fault: 'usage' }) as Error);
});

test('the file in the working directory is optional, the one of --config is not', async () => {
  const cwd = await mkdtemp(join(tmpdir(), 'config-'));
  try {
    expect(await loadConfig({ cwd })).toEqual({ path: null, config: {} });
    await expect(loadConfig({ cwd, explicit: 'other.yaml' })).rejects.toMatchObject({ fault: 'usage' });
    await writeFile(join(cwd, 'dkms2bin.yaml'), 'jobs: 2\n');
    expect(await loadConfig({ cwd })).toEqual({ path: join(cwd, 'dkms2bin.yaml'), config: { jobs: 2 } });
  } finally {
    await rm(cwd, { recursive: true, force: true });
  }
});

test('a result document', () => {
  const cell = {
    module: 'acpi-call',
    version: '1.2.2',
    kernel: '6.1.0-56-amd64',
    distro: 'debian-12',
    arch: 'x86_64',
    verdict: 'built',
    reason: null,
    package: '/out/x.deb',
    log: null,
    phases: { build: 12.5 },
    kept: null,
    fault: null,
  };
  const document = { schemaVersion: 1, run: 'r1', accelerator: 'tcg', cells: [cell] };
  expect(ResultDocument.parse(document)).toEqual(document);
  expect(ResultDocument.safeParse({ ...document, cells: [{ ...cell, verdict: 'ok' }] }).success).toBe(false);
});
