import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { readdir, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FIXTURES, kernels, ROAD, temporary, tool, type Document } from './tool.js';

let kernel = '';
let work = '';
let env: Record<string, string> = {};

beforeAll(async () => {
  kernel = (await kernels()).newest;
  work = await temporary('trust');
  env = { DKMS2BIN_STATE: join(work, 'state') };
});

afterAll(async () => {
  await rm(work, { recursive: true, force: true });
});

const build = (...more: string[]) =>
  tool(['--dkms', join(FIXTURES, 'tiny'), '--kernel', kernel, ...ROAD, '--json', ...more], {
    env,
    cwd: work,
  });

test('a signed module with its provenance in a repository: it loads, and everything names the same bytes', async () => {
  expect(
    (await tool(['keygen', '--out-dir', 'keys', '--name', 'Tests of dkms2bin'], { cwd: work })).code,
  ).toBe(0);
  await execa('openssl', ['genpkey', '-algorithm', 'ed25519', '-out', 'prov.pem'], { cwd: work });
  await execa('openssl', ['pkey', '-in', 'prov.pem', '-pubout', '-out', 'prov.pub'], { cwd: work });
  const ended = await build(
    ...['--out-dir', 'out', '--sign-key', 'keys/mok.key', '--sign-cert', 'keys/mok.pem'],
    ...['--provenance-key', 'prov.pem', '--repo'],
  );
  expect(ended.code, ended.stderr).toBe(0);
  const cell = (JSON.parse(ended.stdout) as Document).cells[0]!;
  // The proof in the clean VM loaded the signed file: no reason stands beside the verdict.
  expect(cell).toMatchObject({ verdict: 'built', reason: null });
  const name = basename(cell.package!);
  expect((await readdir(join(work, 'out'))).sort()).toEqual(
    expect.arrayContaining([name, `${name}.intoto.jsonl`, `${name}.cdx.json`, 'Packages', 'Release']),
  );
  const digest = createHash('sha256')
    .update(await readFile(cell.package!))
    .digest('hex');
  expect(await readFile(join(work, 'out', 'Packages'), 'utf8')).toContain(`SHA256: ${digest}`);

  const inspected = await tool(['inspect', cell.package!, '--key', 'prov.pub', '--json'], { cwd: work });
  expect(inspected.code, inspected.stderr).toBe(0);
  expect(JSON.parse(inspected.stdout)).toMatchObject({
    modules: [{ kernel, signed: true, signature: { signer: 'Tests of dkms2bin', hash: 'sha256' } }],
    provenance: { matches: true, verified: true, expected: digest },
  });
  const [line = ''] = (await readFile(`${cell.package!}.intoto.jsonl`, 'utf8')).split('\n');
  const { payload } = JSON.parse(line) as { payload: string };
  const statement = Buffer.from(payload, 'base64').toString();
  for (const part of [`linux-headers-${kernel}`, 'pkg:deb/debian/dkms@', 'base image', '"accelerator"'])
    expect(statement).toContain(part);

  // A line of the key, as PEM has it, is nowhere in what the run wrote and left.
  const secret = (await readFile(join(work, 'keys', 'mok.key'), 'utf8')).split('\n')[5]!;
  expect(secret.length).toBeGreaterThan(40);
  const found = await execa('grep', ['-rlF', '-e', secret, '--exclude-dir=keys', '.'], {
    cwd: work,
    reject: false,
  });
  expect([found.exitCode, found.stdout]).toEqual([1, '']);
});

test("a key that is not the certificate's is told before any VM starts", async () => {
  for (const name of ['one', 'two']) await tool(['keygen', '--out-dir', name], { cwd: work });
  const ended = await build('--out-dir', 'none', '--sign-key', 'one/mok.key', '--sign-cert', 'two/mok.pem');
  expect(ended.code).toBe(2);
  expect(ended.stderr).toMatch(/does not belong to the certificate/);
  expect(ended.stderr).not.toMatch(/boot/);
});
