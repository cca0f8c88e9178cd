import { expect, test } from 'vitest';
import { isRoot, sandboxWorks } from '../../../src/lib/sandbox.js';
import { cli } from '../../unit/fixtures/cli-harness.js';
import { hasTool } from '../fixtures/has-tool.js';

/** What doctor says on this host, where the accelerators are not measured. */
async function doctor(): Promise<Map<string, { status: string; detail: string }>> {
  const probeAccelerators = () => Promise.resolve({ candidates: [], chosen: 'tcg', reason: '' } as never);
  const { PATH = '' } = process.env;
  const { stdout } = await cli(['doctor', '--json'], { probeAccelerators }, { env: { PATH } });
  const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string; detail: string }[] };
  return new Map(checks.map((each) => [each.name, each]));
}

test('doctor has a row for each layer of confinement, and says which are on', async (context) => {
  if (!hasTool('qemu-system-x86_64') || !hasTool('bwrap')) context.skip('no QEMU or no bubblewrap');
  const on = await sandboxWorks().then(
    () => true,
    () => false,
  );
  const rows = await doctor();
  const off = isRoot() ? 'missing' : 'warn';
  for (const name of ['readers see', 'QEMU sees']) expect(rows.get(name)?.status, name).toBe(on ? 'ok' : off);
  expect(rows.get('compiler')?.status).toBe(on ? 'ok' : 'warn');
  // An ordinary user may have namespaces, and no range of ids for package scripts.
  const scripts = rows.get('package scripts');
  expect(scripts?.detail).toMatch(
    scripts?.status === 'ok' ? /namespaces; ids \d+ to \d+$/ : /^no sandbox: .*\(.+\)$/,
  );
  expect(rows.get('QEMU runs as')?.detail).toMatch(
    isRoot() ? /^an id of nobody/ : new RegExp(`^this user \\(${process.getuid?.()}\\)`),
  );
  expect(rows.get('QEMU seccomp')).toMatchObject({
    status: 'ok',
    detail: expect.stringMatching(/^on: /) as string,
  });
  expect(rows.get('snapshot memory')?.detail).toMatch(/only read|a copy/);
});
