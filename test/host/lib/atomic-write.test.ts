import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import ts from 'typescript';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { writeAtomic } from '../../../src/lib/atomic-write.js';

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
    const source = readFileSync(new URL(`../../../src/${name}.ts`, import.meta.url), 'utf8');
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
