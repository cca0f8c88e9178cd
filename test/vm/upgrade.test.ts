import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ProofDocument } from '../../src/model/result-schema.js';
import type { UpgradeProof } from '../../src/model/upgrade-proof.js';
import { makeKey } from '../unit/fixtures/repository.js';
import { DISTRO, FIXTURES, kernels, ROAD, temporary, tool } from './tool.js';

// Two real kernels of the distro: it offers the newer one before we do, and after. Too long for each commit.
const whole = process.env.DKMS2BIN_TEST_WHOLE === '1';
const later = whole ? '' : ' (skipped: npm run test:upgrade runs it)';
let work = '';
let out = '';
let key: Awaited<ReturnType<typeof makeKey>>;
let env: Record<string, string> = {};

beforeAll(async () => {
  work = await temporary('upgrade');
  out = join(work, 'out');
  env = { DKMS2BIN_STATE: join(work, 'state') };
  key = await makeKey(work);
});

afterAll(async () => {
  await rm(work, { recursive: true, force: true });
});

test.skipIf(!whole)(
  `a machine keeps its kernel until our module is out, and comes to the next one with it${later}`,
  async () => {
    const { newest: to, previous: from } = await kernels();
    const source = join(FIXTURES, 'tiny');
    const built = await tool(
      [
        ...['--dkms', source, '--kernel', from, '--kernel', to, ...ROAD, '--no-verify'],
        ...['--out-dir', out, '--repo-key', key.file, '--json'],
      ],
      { env, cwd: work },
    );
    expect(built.code, built.stderr).toBe(0);

    const ended = await tool(['prove', out, '--from', from, '--to', to, ...ROAD, '--json', '--verbose'], {
      env,
    });
    expect(ended.code, ended.stderr).toBe(0);
    const proof = ProofDocument.parse(JSON.parse(ended.stdout)) as UpgradeProof;
    console.log(JSON.stringify(proof, null, 1));
    const [old, next] = [from, to].map((release) => `dk2b-tiny-modules-${release}`);
    const ours = 'dk2b-tiny-modules-amd64';
    expect(proof).toMatchObject({
      ...{ from, to, distro: DISTRO, signedBy: key.key!.fingerprint, metapackages: [ours] },
      follows: { package: 'linux-image-amd64' },
      held: ['upgrade', 'upgrade --with-new-pkgs', 'dist-upgrade'].map((upgrade) => ({
        ...{ upgrade, kept: true, said: expect.stringContaining('linux-image-amd64') as unknown },
      })),
      modules: [
        { module: 'dk2b_tiny', kernel: from, package: old, verdict: 'loaded' },
        { module: 'dk2b_tiny', kernel: to, package: next, verdict: 'loaded' },
      ],
    });
    // One transaction, and nothing else with it.
    expect(proof.upgraded.map((each) => each.package).sort()).toEqual([
      ...[next, ours, 'linux-image-amd64', `linux-image-${to}`].sort(),
    ]);
    expect([...proof.removed].sort()).toEqual([old, `linux-image-${from}`].sort());

    const alone = await tool(['prove', out, '--from', to, '--to', from, ...ROAD], { env });
    expect(alone.code).toBe(3);
    expect(alone.stderr).toContain(`No metapackage of the repository brings a module from ${to} to ${from}`);
  },
);
