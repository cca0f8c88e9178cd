import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import ts from 'typescript';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { writeAtomic } from '../../src/lib/atomic-write.js';

let tmp: string;
let out: string;
beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  out = join(tmp, 'out');
  mkdirSync(out);
});
afterEach(() => rmSync(tmp, { recursive: true }));

/** writeAtomic as plain JavaScript, for other processes. */
function compiled(): string {
  for (const name of ['lib/atomic-write', 'lib/digest', 'model/errors']) {
    const source = readFileSync(new URL(`../../src/${name}.ts`, import.meta.url), 'utf8');
    const { outputText } = ts.transpileModule(source, {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
    });
    const to = join(tmp, `${name}.js`);
    mkdirSync(dirname(to), { recursive: true });
    writeFileSync(to, outputText);
  }
  writeFileSync(join(tmp, 'package.json'), '{ "type": "module" }');
  return join(tmp, 'lib/atomic-write.js');
}

it('writes bytes and copies files, and leaves an identical file alone', async () => {
  const bytes = Buffer.from('one');
  const file = join(tmp, 'from');
  writeFileSync(file, bytes);
  const sha256 = execFileSync('sha256sum', [file], { encoding: 'utf8' }).slice(0, 64);
  const to = join(out, 'a');
  expect(await writeAtomic({ file }, to)).toEqual({ status: 'written', sha256, size: 3 });
  const { ino } = statSync(to);
  expect(ino).not.toBe(statSync(file).ino);
  expect(await writeAtomic({ file }, to)).toEqual({ status: 'up to date', sha256, size: 3 });
  expect(await writeAtomic(bytes, to)).toEqual({ status: 'up to date', sha256, size: 3 });
  expect(statSync(to).ino).toBe(ino);

  // Of the same size, so that only the content tells.
  expect((await writeAtomic(Buffer.from('two'), to)).status).toBe('written');
  expect(readFileSync(to, 'utf8')).toBe('two');
  const big = Buffer.alloc(300_000, 'x');
  writeFileSync(file, big);
  expect((await writeAtomic({ file }, to)).size).toBe(big.length);
  expect(readFileSync(to).equals(big)).toBe(true);
  expect(readdirSync(out)).toEqual(['a']);
});

it('replaces a symlink, never what it points at', async () => {
  writeFileSync(join(tmp, 'victim'), 'v');
  symlinkSync('../victim', join(out, 'a'));
  await writeAtomic(Buffer.from('v'), join(out, 'a'));
  expect(lstatSync(join(out, 'a')).isFile()).toBe(true);
  await writeAtomic(Buffer.from('w'), join(out, 'a'));
  expect(readFileSync(join(tmp, 'victim'), 'utf8')).toBe('v');
});

it('says what is wrong with the place', async () => {
  await expect(writeAtomic(Buffer.from(''), join(tmp, 'none', 'a'))).rejects.toMatchObject({
    fault: 'usage',
    message: `Cannot write a to ${join(tmp, 'none')}: no such folder`,
  });
  mkdirSync(join(out, 'a'));
  await expect(writeAtomic(Buffer.from(''), join(out, 'a'))).rejects.toThrow('a folder of that name exists');
  expect(readdirSync(out)).toEqual(['a']);
});

it('sweeps what a killed run left, and nothing while it runs', async () => {
  // Read once for the digest; the copy then waits for ever on its second opening.
  const fifo = join(tmp, 'fifo');
  execFileSync('mkfifo', [fifo]);
  const code = `import { writeAtomic } from ${JSON.stringify(compiled())};
    await writeAtomic({ file: ${JSON.stringify(fifo)} }, ${JSON.stringify(join(out, 'never'))});`;
  const maker = spawn('node', ['--input-type=module', '-e', code], { stdio: 'inherit' });
  try {
    writeFileSync(fifo, 'x');
    for (let i = 0; i < 200 && readdirSync(out).length === 0; i++) await sleep(25);
    const [part] = readdirSync(out);
    expect(part).toMatch(/^\.dkms2bin-.*\.part$/);
    await writeAtomic(Buffer.from('1'), join(out, 'a'));
    expect(readdirSync(out).sort()).toEqual([part, 'a']);
    maker.kill('SIGKILL');
    await once(maker, 'exit');
    await writeAtomic(Buffer.from('1'), join(out, 'a'));
    expect(readdirSync(out)).toEqual(['a']);
  } finally {
    maker.kill('SIGKILL');
  }
});

it('sweeps by age what another host left, and nothing foreign', async () => {
  const dead = spawnSync('true').pid;
  const old = `.dkms2bin-00000000-${dead}-0123456789ab.part`;
  const young = `.dkms2bin-00000000-${dead}-ba9876543210.part`;
  const foreign = ['.a.deb.0123456789ab.part', '.dkms2bin-x.part', 'a.part', `${old}.txt`];
  for (const name of [old, young, ...foreign]) writeFileSync(join(out, name), '');
  const folder = `.dkms2bin-00000000-${dead}-abcdefabcdef.part`;
  mkdirSync(join(out, folder));
  const past = new Date(Date.now() - 61 * 60_000);
  for (const name of [old, folder, ...foreign]) utimesSync(join(out, name), past, past);
  await writeAtomic(Buffer.from('1'), join(out, 'a'));
  expect(readdirSync(out).sort()).toEqual([young, folder, 'a', ...foreign].sort());
});

it('blames the host for a full disk, and leaves what was there', (ctx) => {
  const mount = 'mount -t tmpfs -o size=64k tmpfs "$0"';
  const namespace = ['--user', '--map-root-user', '--mount', 'sh', '-c'];
  const can = spawnSync('unshare', [...namespace, mount, out], { encoding: 'utf8' });
  if (can.status !== 0) ctx.skip(`no tmpfs without root here: ${can.stderr.trim() || String(can.error)}`);
  const code = `import { writeAtomic } from ${JSON.stringify(compiled())};
    import { readdirSync, readFileSync } from 'node:fs';
    const to = ${JSON.stringify(join(out, 'a'))};
    await writeAtomic(Buffer.from('old'), to);
    const error = await writeAtomic(Buffer.alloc(100_000), to).catch((e) => e);
    const there = [readFileSync(to, 'utf8'), readdirSync(${JSON.stringify(out)})];
    console.log(JSON.stringify([error.fault, error.message, ...there]));`;
  const args = [...namespace, `${mount} && exec node --input-type=module -e "$1"`, out, code];
  const done = spawnSync('unshare', args, { encoding: 'utf8' });
  expect(done.stderr).toBe('');
  expect(JSON.parse(done.stdout)).toEqual(['host', `No space left for ${join(out, 'a')}`, 'old', ['a']]);
});
