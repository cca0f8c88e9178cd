import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { readSigner, type Signer } from '../../../src/attest/dsse.js';
import type { BuildFacts } from '../../../src/attest/facts.js';
import { readBundle, writeProvenance } from '../../../src/attest/provenance.js';
import { makeStatement } from '../../../src/attest/statement.js';
import { sbomText, writeSbom } from '../../../src/attest/sbom.js';
import type { CellInput } from '../../../src/cell/types.js';
import type { Prepared } from '../../../src/cell/source.js';
import { cellIdentity, remember, upToDate } from '../../../src/cell/finished.js';
import type { CellResult } from '../../../src/model/cell.js';
import { cell } from '../fixtures/cli-harness.js';
import { facts, FILE, packageBytes, sha256 } from '../fixtures/provenance.js';
import { deb } from '../fixtures/repository.js';

const IDENTITY = 'f'.repeat(64);
const COMMON = 'acpi-call-modules-common_1.2.2_all.deb';
const LOG = 'acpi_call.log';
const FILES: Record<string, Buffer> = {
  [FILE]: packageBytes(),
  [COMMON]: deb('acpi-call-modules-common', '1.2.2', 'all'),
};
const BESIDE = Object.keys(FILES).flatMap((name) => [`${name}.intoto.jsonl`, `${name}.cdx.json`]);

let home = '';
let out = '';
let notes: string[] = [];
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'dk2b-finished-'));
  out = join(home, 'out');
  notes = [];
  vi.stubEnv('DKMS2BIN_CACHE', join(home, 'cache'));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(home, { recursive: true });
});

function newKey(): Signer {
  const { privateKey } = generateKeyPairSync('ed25519');
  return readSigner(privateKey.export({ type: 'pkcs8', format: 'pem' }) as string, 'key');
}

const inputOf = (more: Partial<CellInput> = {}, signer: Signer | null = null): CellInput =>
  ({
    ...{ label: 'acpi × 6.1', outDir: out, force: false, debug: false, checkReproducible: false },
    invocation: { id: 'run', options: facts().options, signer },
    machine: { emit: (event: { message?: string }) => notes.push(event.message ?? '') },
    ...more,
  }) as unknown as CellInput;

/** Publishes what a build of this cell makes, as the cell itself does. */
async function built(input = inputOf(), more: Partial<CellResult> = {}): Promise<void> {
  const about: BuildFacts = facts();
  about.packages = about.packages.map((each) => ({ ...each, sha256: sha256(FILES[each.file]!) }));
  const result = cell({ package: join(out, FILE), log: join(out, LOG), ...more });
  await mkdir(out, { recursive: true });
  if (result.log !== null) await writeFile(result.log, 'make: \xff done\n', 'latin1');
  const statement = JSON.stringify(makeStatement(about));
  const sboms: Record<string, string> = {};
  for (const record of about.packages) {
    await writeFile(join(out, record.file), FILES[record.file]!);
    sboms[record.file] = sbomText(about, record);
    await writeProvenance(join(out, record.file), statement, input.invocation.signer ?? undefined);
    await writeSbom(join(out, record.file), sboms[record.file]!);
  }
  const packages = Object.fromEntries(Object.entries(FILES).map(([name, bytes]) => [name, sha256(bytes)]));
  await remember(input, IDENTITY, [{ result, packages, attestation: { statement, sboms } }]);
}

const snapshot = async (): Promise<Map<string, string>> => {
  const names = (await readdir(out)).sort();
  return new Map(
    await Promise.all(names.map(async (name) => [name, await readFile(join(out, name), 'latin1')] as const)),
  );
};
/** Nothing that is printed names a file that is not there. */
async function namesOnlyWhatIsThere(results: readonly CellResult[]): Promise<void> {
  const there = await readdir(out);
  for (const { package: file, log } of results)
    for (const path of [file, log]) if (path !== null) expect(there).toContain(basename(path));
}

test('a cell is known by its sources and its layer, not by where they lie', () => {
  const known = (layer: string, digests: string[], path = '/a'): string => {
    const [digest = '', ...others] = digests;
    const source = { kind: 'folder', text: path, path } as const;
    const input = inputOf({
      ...{ source, signer: null, nameStyle: 'release', verify: true, strict: false, debugSymbols: false },
      target: { release: '6.1.0-56-amd64', distro: 'debian-12', arch: 'x86_64' },
      environment: { layer: { entry: { dir: join(home, layer) } } } as CellInput['environment'],
    });
    const prepared = { digest, with: others.map((each) => ({ ...source, digest: each })) };
    return cellIdentity(input, prepared as unknown as Prepared);
  };
  const usual = known('layer', ['a', 'b']);
  expect(known('layer', ['a', 'b'], '/elsewhere')).toBe(usual);
  for (const other of [known('other', ['a', 'b']), known('layer', ['a', 'c']), known('layer', ['a'])])
    expect(other).not.toBe(usual);
});

test('what was built is up to date, in words of its own', async () => {
  await built();
  expect(await upToDate(inputOf(), IDENTITY)).toEqual([
    cell({
      ...{ package: join(out, FILE), otherPackages: [join(out, COMMON)], log: join(out, LOG) },
      ...{ reason: 'up to date', phases: {} },
    }),
  ]);
  expect(notes).toEqual([]);
});

test('what is up to date is still warned of', async () => {
  await built(inputOf(), {
    reason: 'the kernel warns: acpi_call: WARNING: x',
    notes: ['its rule runs a program'],
  });
  const reason = 'up to date; the kernel warns: acpi_call: WARNING: x';
  for (let run = 0; run < 2; run++)
    expect(await upToDate(inputOf(), IDENTITY)).toMatchObject([
      { reason, notes: ['its rule runs a program'] },
    ]);
  expect(notes).toEqual(['its rule runs a program', 'its rule runs a program']);
});

describe('what is gone comes back as it was', () => {
  test.each([LOG, ...BESIDE])('%s', async (name) => {
    await built();
    const before = await snapshot();
    await rm(join(out, name));
    const results = await upToDate(inputOf(), IDENTITY);
    expect(results).toHaveLength(1);
    expect(await snapshot()).toEqual(before);
    expect(notes.join()).toContain(name);
    await namesOnlyWhatIsThere(results!);
  });

  test('all of it at once, and what is cut off or about other bytes', async () => {
    await built();
    const before = await snapshot();
    for (const name of [LOG, BESIDE[0]!, BESIDE[3]!]) await rm(join(out, name));
    await writeFile(join(out, BESIDE[1]!), '{"metadata"');
    await writeProvenance(
      join(out, COMMON),
      JSON.stringify(makeStatement(facts({ packages: facts().packages.slice(0, 1) }))).replaceAll(
        sha256(FILES[FILE]!),
        '0'.repeat(64),
      ),
    );
    expect(await upToDate(inputOf(), IDENTITY)).toHaveLength(1);
    expect(await snapshot()).toEqual(before);
  });

  test('a cell without a log has none afterwards either', async () => {
    await built(inputOf(), { log: null });
    const results = await upToDate(inputOf(), IDENTITY);
    expect(results).toMatchObject([{ log: null }]);
    await namesOnlyWhatIsThere(results!);
  });
});

describe('the key of the provenance', () => {
  test.each(['added', 'changed'])('%s: it is signed without a build', async (how) => {
    await built(inputOf({}, how === 'changed' ? newKey() : null));
    const key = newKey();
    expect(await upToDate(inputOf({}, key), IDENTITY)).toHaveLength(1);
    for (const name of Object.keys(FILES)) {
      const [statement] = await readBundle(join(out, `${name}.intoto.jsonl`), createPublicKey(key.key));
      expect(statement).toMatchObject({
        verified: true,
        keyids: [key.keyid],
        cell: { kernel: facts().kernel },
      });
    }
    const signed = await snapshot();
    expect(await upToDate(inputOf({}, key), IDENTITY)).toHaveLength(1);
    expect(await snapshot()).toEqual(signed);
  });

  test('not given: what is signed stays signed', async () => {
    await built(inputOf({}, newKey()));
    const before = await snapshot();
    await upToDate(inputOf(), IDENTITY);
    expect(await snapshot()).toEqual(before);
  });
});

describe('is built again', () => {
  test.each([FILE, COMMON])('when %s is gone or another one', async (name) => {
    await built();
    await appendFile(join(out, name), 'x');
    expect(await upToDate(inputOf(), IDENTITY)).toBeNull();
    await rm(join(out, name));
    expect(await upToDate(inputOf(), IDENTITY)).toBeNull();
    // The caller builds: nothing is written for a package that is not there.
    expect(await readdir(out)).not.toContain(name);
  });

  test.each<[string, Partial<CellInput>]>([
    ['by --force', { force: true }],
    ['by --debug', { debug: true }],
    ['to be checked for the first time', { checkReproducible: true }],
  ])('%s', async (_, more) => {
    await built();
    expect(await upToDate(inputOf(more), IDENTITY)).toBeNull();
  });

  test('by another identity', async () => {
    await built();
    expect(await upToDate(inputOf(), 'e'.repeat(64))).toBeNull();
  });

  test.each([
    ['cut off', (text: string) => text.slice(0, -9)],
    ['of another form', () => '[{"module":"a","files":{}}]'],
    ['with a way out of the folder', (text: string) => text.replaceAll(COMMON, '../x.deb')],
    ['with a log that is no gzip', (text: string) => text.replace(/"log":"[^"]+"\}\]$/, '"log":"AAAA"}]')],
  ])('when its record is %s', async (_, spoil) => {
    await built();
    const path = join(home, 'cache', 'built', `${IDENTITY}.json`);
    const text = await readFile(path, 'utf8');
    expect(spoil(text)).not.toBe(text);
    await writeFile(path, spoil(text));
    expect(await upToDate(inputOf(), IDENTITY)).toBeNull();
  });
});

test('what was checked once stays so for the very same packages', async () => {
  await built(inputOf(), { reproducible: true });
  await built();
  expect(await upToDate(inputOf({ checkReproducible: true }), IDENTITY)).toMatchObject([
    { reproducible: true },
  ]);
});
