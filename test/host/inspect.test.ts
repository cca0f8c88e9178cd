import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { engine } from '../../src/cli/services.js';
import { writeProvenance } from '../../src/attest/provenance.js';
import { makeStatement } from '../../src/attest/statement.js';
import { cli } from '../unit/cli-harness.js';
import { fakeModule, hasTool } from '../unit/pack-fixture.js';
import { facts, RELEASE } from '../unit/provenance-fixture.js';

let tmp: string;
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'))));
afterEach(() => rmSync(tmp, { recursive: true }));

const inspect = (...args: string[]) =>
  cli(['inspect', ...args], { inspect: (path, options) => engine.inspect(path, options) });
const statement = makeStatement(facts());

describe('a package', () => {
  it("of dpkg-deb's own make is shown", async () => {
    if (!hasTool('dpkg-deb')) return;
    const script = `mkdir -p r/DEBIAN r/lib/modules/x && cp foo.ko r/lib/modules/x/ && xz r/lib/modules/x/foo.ko &&
      printf 'Package: foo\\nVersion: 1\\nArchitecture: amd64\\nMaintainer: A <a@b>\\nDescription: foo\\n' >r/DEBIAN/control &&
      dpkg-deb -b r theirs.deb`;
    writeFileSync(join(tmp, 'foo.ko'), fakeModule(RELEASE, 'foo'));
    expect(spawnSync('sh', ['-c', script], { cwd: tmp }).status).toBe(0);
    const { code, stdout } = await inspect(join(tmp, 'theirs.deb'));
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Module +foo 1\.2\.2$/m);
    expect(stdout).toMatch(/file +\/lib\/modules\/x\/foo\.ko\.xz$/m);
  });
});

describe('a module', () => {
  it.each([
    ['x.ko.xz', (bytes: Buffer) => spawnSync('xz', ['-c'], { input: bytes }).stdout],
    ['x.ko.zst', (bytes: Buffer) => spawnSync('zstd', ['-cq'], { input: bytes }).stdout],
  ])('%s is shown, and found in the provenance', async (name, pack) => {
    const path = join(tmp, name);
    const bytes = pack(fakeModule(RELEASE));
    writeFileSync(path, bytes);
    await writeProvenance(path, statement);
    const { code, stdout } = await inspect(path);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Module +acpi_call 1\.2\.2$/m);
    expect(stdout).toMatch(/^ {2}digest +matches$/m);
    expect(stdout.match(/SHA-256/g)).toHaveLength(2);
    writeFileSync(path, bytes.subarray(0, bytes.length / 2));
    expect((await inspect(path)).code).toBe(2);
  });
});
