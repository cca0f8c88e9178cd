import { validateAction, validateWorkflow } from '@action-validator/core';
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parse } from 'yaml';
import { loadCatalogue } from '../../src/distro/catalogue.js';

const SCRIPTS = fileURLToPath(new URL('../../scripts', import.meta.url));
const text = (file: string): string => readFileSync(join(SCRIPTS, file), 'utf8');

interface Step {
  id?: string;
  run?: string;
  env?: Record<string, string>;
}
interface Action {
  inputs: Record<string, { default?: string }>;
  runs: { steps: Step[] };
}

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'dk2b-ci-'));
  mkdirSync(join(folder, 'scripts/github-action'), { recursive: true });
  cpSync(join(SCRIPTS, 'ci-matrix.sh'), join(folder, 'scripts/ci-matrix.sh'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('the action and the workflows are of their published schemas', () => {
  expect(validateAction(text('github-action/action.yml'))).toMatchObject({ errors: [] });
  expect(validateWorkflow(text('github-action/example-workflow.yml'))).toMatchObject({ errors: [] });
  expect(validateWorkflow(text('../.github/workflows/official-images.yml'))).toMatchObject({ errors: [] });
});

test('the nightly workflow finds every row of the catalogue that has an image of its own', async () => {
  const workflow = parse(text('../.github/workflows/official-images.yml')) as {
    jobs: Record<string, { steps: Step[] }>;
  };
  const { run } = workflow.jobs.rows!.steps.find(({ id }) => id === 'rows')!;
  const output = join(folder, 'output');
  execFileSync('bash', ['-c', run!], {
    cwd: join(SCRIPTS, '..'),
    env: { ...process.env, GITHUB_OUTPUT: output, ONLY: '' },
  });
  const rows = JSON.parse(readFileSync(output, 'utf8').replace('rows=', '')) as string[];
  const own = (await loadCatalogue()).filter(({ overlay }) => overlay === undefined);
  expect(rows.sort()).toEqual(own.map(({ id }) => id).sort());
});

/** Runs the action's step against a stand-in for dkms2bin, which writes its arguments, a summary, and exits with `code`. */
function matrixStep(inputs: Record<string, string>, code: number) {
  writeFileSync(
    join(folder, 'scripts/dkms2bin'),
    `#!/bin/sh\nprintf '%s\\n' "$@" >args\necho '# Summary' >"$REPORTS/summary.md"\nexit ${code}\n`,
    { mode: 0o755 },
  );
  const action = parse(text('github-action/action.yml')) as Action;
  const step = action.runs.steps.find(({ id }) => id === 'matrix')!;
  const valueOf = (name: string): string => inputs[name] ?? action.inputs[name]!.default ?? '';
  const env = Object.entries(step.env!).map(([name, value]) => [
    name,
    value.replace(/\$\{\{ inputs\.([a-z-]+) \}\}/, (_, input: string) => valueOf(input)),
  ]);
  const ended = spawnSync('bash', ['--noprofile', '--norc', '-eo', 'pipefail', '-c', step.run!], {
    cwd: folder,
    encoding: 'utf8',
    env: {
      ...(Object.fromEntries(env) as Record<string, string>),
      ...{ PATH: process.env.PATH, REPORTS: valueOf('report') },
      GITHUB_ACTION_PATH: join(folder, 'scripts/github-action'),
      GITHUB_OUTPUT: join(folder, 'output'),
      GITHUB_STEP_SUMMARY: join(folder, 'summary'),
    },
  });
  const read = (file: string): string => readFileSync(join(folder, file), 'utf8');
  return { ...ended, read };
}

test('inputs arrive word by word; summary and exit code go to GitHub', () => {
  const inputs = {
    modules: './dkms\n\n  a b$(touch x) \n',
    kernels: 'latest\n6.1.0-*-amd64',
    distro: 'debian-12',
  };
  const { status, stderr, read } = matrixStep(inputs, 0);
  expect(status, stderr).toBe(0);
  expect(read('args').trim().split('\n')).toEqual([
    ...['matrix', '--dkms', './dkms', '--dkms', 'a b$(touch x)'],
    ...['--kernel', 'latest', '--kernel', '6.1.0-*-amd64', '--distro', 'debian-12', '--out-dir', 'out'],
    ...['--report', 'dkms2bin-report/report.html', '--report', 'dkms2bin-report/junit.xml'],
    ...['--report', 'dkms2bin-report/summary.md'],
  ]);
  expect([read('output'), read('summary')]).toEqual(['exit-code=0\n', '# Summary\n']);
});

test.each([
  ['any', 1, 1],
  ['any', 5, 5],
  ['module', 1, 1],
  ['module', 2, 2],
  ['module', 5, 0],
  ['module', 130, 130],
  ['never', 1, 0],
  ['never', 130, 130],
  ['always', 0, 2],
])('fail-on %s: %d becomes %d', (failOn, code, expected) => {
  expect(matrixStep({ modules: 'm', 'fail-on': failOn }, code).status).toBe(expected);
});

test("GitLab's job retries what is worth it, and its lines are shell", () => {
  const { '.dkms2bin': job } = parse(text('gitlab-ci.yml')) as {
    '.dkms2bin': { before_script: string[]; script: string[]; retry: object; artifacts: object };
  };
  expect(job).toMatchObject({
    retry: { exit_codes: [5] },
    artifacts: { when: 'always', reports: { junit: '$DKMS2BIN_REPORT_DIR/junit.xml' } },
  });
  for (const line of [...job.before_script, ...job.script]) execFileSync('bash', ['-nc', line]);
});
