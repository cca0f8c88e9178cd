import { describe, expect, test } from 'vitest';
import type { BisectOutcome, BisectStep } from '../../../src/engine/bisect.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import { BisectDocument } from '../../../src/model/result-schema.js';
import type { BuildRequest } from '../../../src/options/request.js';
import { cell, cli, planOf, type Fake } from '../fixtures/cli-harness.js';

const step = (kernel: string, verdict: 'built' | 'failed' | 'skipped' | 'error'): BisectStep => ({
  kernel,
  answer: ({ built: 'good', failed: 'bad', skipped: 'untested', error: 'untested' } as const)[verdict],
  cells: [cell({ kernel, verdict, reason: verdict === 'built' ? null : `${verdict}\n\x1b[2Jmore` })],
});
const STEPS = [step('6.1.0-1', 'built'), step('6.1.0-9', 'failed'), step('6.1.0-5', 'failed')];
const FOUND: BisectOutcome = {
  ...{ status: 'found', lastGood: '6.1.0-1', firstBad: '6.1.0-5', untested: [] },
  steps: STEPS,
};

interface Asked {
  request?: BuildRequest;
  ends?: { good: string; bad: string };
}

function engine(outcome: BisectOutcome, asked: Asked = {}): Fake {
  return {
    planBisect: (request, ends) => {
      Object.assign(asked, { request, ends });
      return Promise.resolve(planOf(request));
    },
    bisect: (_, context) => {
      outcome.steps.forEach(context.step);
      return Promise.resolve(outcome);
    },
  };
}
const ARGV = ['bisect', '--dkms', 'm', '--good', '6.1.0-1', '--bad', '6.1.0-9'];

test('each step is told, then the first bad kernel', async () => {
  const asked: Asked = {};
  const { code, stdout, stderr } = await cli([...ARGV, '--no-verify'], engine(FOUND, asked));
  expect(code).toBe(0);
  expect(stdout).toBe(
    'good  6.1.0-1\nbad   6.1.0-9  failed\nbad   6.1.0-5  failed\nfirst bad kernel: 6.1.0-5 (6.1.0-1 is good)\n',
  );
  expect(stderr).toMatch(/6\.1\.0-1 is good\n.*6\.1\.0-9 is bad\n.*6\.1\.0-5 is bad\n/);
  expect(asked.ends).toEqual({ good: '6.1.0-1', bad: '6.1.0-9' });
  expect(asked.request).toMatchObject({ dkms: ['m'], kernels: [], verify: false });
});

test('kernels of the config file are those of build; typed ones are the list', async () => {
  const asked: Asked = {};
  const loadConfig = () => Promise.resolve({ kernel: ['latest'], dkms: ['of-file'] });
  const argv = ['bisect', '--good', 'a', '--bad', 'b'];
  await cli(argv, { ...engine(FOUND, asked), loadConfig });
  expect(asked.request).toMatchObject({ dkms: ['of-file'], kernels: [] });
  await cli([...argv, '--kernel', '6.1.0-*-amd64'], { ...engine(FOUND, asked), loadConfig });
  expect(asked.request).toMatchObject({ kernels: ['6.1.0-*-amd64'] });
});

describe('--json', () => {
  test('a document of its schema', async () => {
    const { stdout } = await cli([...ARGV, '--json'], engine(FOUND));
    const document = JSON.parse(stdout) as BisectDocument;
    expect(BisectDocument.parse(document)).toEqual(document);
    expect(document).toMatchObject({
      status: 'found',
      firstBad: '6.1.0-5',
      steps: [{ answer: 'good' }, {}, {}],
    });
    expect(stdout).not.toContain('\x1b');
  });

  test('of what ended it, too', async () => {
    const planBisect = () => Promise.reject(new Dkms2binError('usage', 'no', { hint: 'do' }));
    const { code, stdout } = await cli([...ARGV, '--json'], { planBisect });
    const document = JSON.parse(stdout) as BisectDocument;
    expect(BisectDocument.parse(document)).toEqual(document);
    expect([code, document]).toEqual([
      2,
      { schemaVersion: 1, error: { fault: 'usage', message: 'no', hint: 'do' } },
    ]);
  });
});

test.each([
  ['skipped' as const, 1],
  ['error' as const, 5],
])('%s kernels in between: the range is named, exit code %d', async (verdict, expected) => {
  const untested = ['6.1.0-3', '6.1.0-4'];
  const steps = [...STEPS, ...untested.map((kernel) => step(kernel, verdict))];
  const { code, stdout } = await cli(ARGV, engine({ ...FOUND, status: 'ambiguous', untested, steps }));
  expect(code).toBe(expected);
  expect(stdout).toMatch(
    /\nfirst bad kernel: one of 6\.1\.0-3, 6\.1\.0-4, 6\.1\.0-5 \(6\.1\.0-1 is good\)\n$/,
  );
});

test('interrupted: 130, and a document that says so', async () => {
  const aborter = new AbortController();
  const fake: Fake = {
    ...engine(FOUND),
    bisect: () => {
      aborter.abort();
      return Promise.reject(new Dkms2binError('interrupted', 'Interrupted'));
    },
  };
  const { code, stdout } = await cli([...ARGV, '--json'], fake, { signal: aborter.signal });
  expect([code, JSON.parse(stdout)]).toMatchObject([130, { error: { fault: 'interrupted' } }]);
});

test.each([
  [['bisect', '--dkms', 'm', '--good', 'a'], /--bad/],
  [['bisect', '--dkms', 'm', '--bad', 'a'], /--good/],
  [[...ARGV, '--repo'], /unknown option/],
])('usage error %j', async (argv, message) => {
  const { code, stderr } = await cli(argv);
  expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
});
