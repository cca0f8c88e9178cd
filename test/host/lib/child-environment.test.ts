import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { run } from '../../../src/lib/exec.js';
import { lock } from '../../../src/lib/lock.js';
import { runProbeGuest } from '../../../src/vm/probe-run.js';

// What a child process can read of this one's environment, asked of the kernel.
const SECRET = 'c0ffee-marker-secret';
const SECRETS = [
  ...['AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN', 'DKMS2BIN_SIGN_PASSPHRASE', 'DKMS2BIN_REPO_PASSPHRASE'],
  ...['DKMS2BIN_QUEUE_PASSWORD', 'GITHUB_TOKEN', 'CI_JOB_TOKEN', 'npm_config__auth', 'PKCS11_PIN'],
];

let tmp: string;
beforeEach(() => {
  tmp = mkdtempSync(join(tmpdir(), 'dkms2bin-test-'));
  for (const name of SECRETS) vi.stubEnv(name, SECRET);
  vi.stubEnv('https_proxy', `http://user:${SECRET}@127.0.0.1:9`);
  vi.stubEnv('LC_ALL', 'C.UTF-8');
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(tmp, { recursive: true });
});

const OWN = ['sh', ['-c', 'cat /proc/$$/environ']] as const;
const environmentOf = (text: string): Map<string, string> =>
  new Map(text.split('\0').map((entry) => [entry.split('=')[0]!, entry.slice(entry.indexOf('=') + 1)]));

test('a command gets what it needs and what its caller adds, and no secret', async () => {
  const { stdout } = await run(...OWN, { env: { EXTRA: '1' } });
  const environment = environmentOf(stdout);
  expect(stdout).not.toContain(SECRET);
  expect(environment.get('PATH')).toBe(process.env.PATH);
  expect([environment.get('LC_ALL'), environment.get('EXTRA')]).toEqual(['C.UTF-8', '1']);
  const other = await run(...OWN, { dieWithParent: true });
  expect(other.stdout).not.toContain(SECRET);
});

test('one that downloads gets the proxies, and nothing else more', async () => {
  const { stdout } = await run(...OWN, { network: true });
  const holding = [...environmentOf(stdout)].filter(([, value]) => value.includes(SECRET));
  expect(holding.map(([name]) => name)).toEqual(['https_proxy']);
});

test('so do those that are not started by run: a lock’s holder, QEMU', async () => {
  const held = await lock(join(tmp, 'lock'), 'exclusive', { wait: true });
  const seen = readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid) && parentOf(pid) === String(process.pid))
    .map((pid) => readFileSync(`/proc/${pid}/environ`, 'latin1'));
  await held.release();
  expect(seen.length).toBeGreaterThan(0);
  expect(seen.filter((text) => text.includes(SECRET))).toEqual([]);
  const qemu = join(tmp, 'qemu');
  writeFileSync(qemu, `#!/bin/sh\ncat /proc/$$/environ >'${tmp}/seen'\n`, { mode: 0o755 });
  await runProbeGuest({
    qemu,
    accel: 'tcg',
    cpu: 'max',
    deadlineMs: 10_000,
    signal: new AbortController().signal,
  });
  expect(readFileSync(join(tmp, 'seen'), 'latin1')).toContain('PATH=');
  expect(readFileSync(join(tmp, 'seen'), 'latin1')).not.toContain(SECRET);
});

function parentOf(pid: string): string | undefined {
  try {
    return /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  } catch {
    return undefined;
  }
}

test('there is no other door', () => {
  const folder = join(import.meta.dirname, '../../../src');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.ts'),
  );
  const starting = files
    .map((name) => [name, readFileSync(join(folder, name), 'utf8')] as const)
    .filter(([, text]) => /^import .*\b(?:spawn|execa|execFile|fork)\b|import\('node-pty'\)/m.test(text));
  expect(starting.length).toBeGreaterThan(4);
  for (const [name, text] of starting) {
    const starts = text.match(/\b(?:spawn|execa)\(/g)?.length ?? 0;
    const kept = text.match(/env: (?:childEnvironment|environment)\(|\.\.\.settings\(\)/g)?.length ?? 0;
    expect(kept, name).toBeGreaterThanOrEqual(starts);
  }
});
