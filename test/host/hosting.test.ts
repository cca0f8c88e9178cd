import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { validateWorkflow } from '@action-validator/core';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parse } from 'yaml';
import { PACKAGE_ROOT } from '../../src/lib/paths.js';
import { hasTool } from './fixtures/has-tool.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'dk2b-hosting-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('systemd finds nothing wrong with the units', (context) => {
  if (!hasTool('systemd-analyze')) context.skip('systemd-analyze is not installed');
  const units = ['service', 'timer'].map((kind) => {
    const name = `dkms2bin-refresh.${kind}`;
    // Its user and its command exist on machines that have set it up.
    const text = readFileSync(join(PACKAGE_ROOT, 'systemd', name), 'utf8');
    writeFileSync(join(folder, name), text.replace('ExecStart=dkms2bin', 'ExecStart=/bin/true'));
    return join(folder, name);
  });
  const said = spawnSync('systemd-analyze', ['verify', '--man=no', ...units], { encoding: 'utf8' });
  // Those of the machine itself are not ours to judge.
  expect(said.stderr.split('\n').filter((line) => line.includes(folder))).toEqual([]);
  expect(said.error).toBeUndefined();
  const times = execFileSync('systemd-analyze', ['calendar', '--iterations=2', '*-*-* 00/6:15:00'], {
    encoding: 'utf8',
  });
  expect(times).toMatch(/00:15:00|06:15:00|12:15:00|18:15:00/);
  expect(readFileSync(units[1]!, 'utf8')).toContain('OnCalendar=*-*-* 00/6:15:00');
});

interface Workflow {
  jobs: { refresh: { steps: { name?: string; run?: string; 'working-directory'?: string }[] } };
}

test('the workflow for GitHub Pages refreshes, and pushes one commit with what is there', () => {
  const text = readFileSync(join(PACKAGE_ROOT, 'scripts/github-action/pages-workflow.yml'), 'utf8');
  expect(validateWorkflow(text)).toMatchObject({ errors: [] });
  const { steps } = (parse(text) as Workflow).jobs.refresh;
  const run = (name: string, cwd: string, env: Record<string, string> = {}): string => {
    const step = steps.find((each) => each.name === name)!;
    return execFileSync('bash', ['--noprofile', '--norc', '-eo', 'pipefail', '-c', step.run!], {
      cwd: join(cwd, step['working-directory'] ?? ''),
      env: { PATH: process.env['PATH'], HOME: folder, RUNNER_TEMP: folder, ...env },
      encoding: 'utf8',
    });
  };
  const git = (...args: string[]): string => execFileSync('git', args, { cwd: folder, encoding: 'utf8' });
  git('init', '--quiet', '--bare', 'pages.git');
  git('clone', '--quiet', 'pages.git', 'out');
  git('-C', 'out', 'checkout', '--quiet', '-b', 'gh-pages');
  writeFileSync(join(folder, 'out', 'old.deb'), 'old');
  git('-C', 'out', 'add', '.');
  git('-C', 'out', '-c', 'user.name=a', '-c', 'user.email=a@example.org', 'commit', '-qm', 'first');
  git('-C', 'out', 'push', '--quiet', '--set-upstream', 'origin', 'gh-pages');

  // A stand-in for dkms2bin: a package came, another went.
  mkdirSync(join(folder, 'dkms2bin/scripts'), { recursive: true });
  const script = '#!/bin/sh\nprintf "%s\\n" "$@" >"$HOME/args"; rm out/old.deb; echo new >out/new.deb\n';
  writeFileSync(join(folder, 'dkms2bin/scripts/dkms2bin'), script, { mode: 0o755 });
  run('Refresh', folder, { REPO_KEY: 'the key', NOTIFY: 'https://chat.example.org/a b' });
  expect(readFileSync(join(folder, 'args'), 'utf8').trim().split('\n')).toEqual([
    ...['refresh', '--out-dir', 'out', '--repo-key', join(folder, 'repo-key.asc'), '--keep', '3'],
    ...['--notify', 'https://chat.example.org/a b'],
  ]);
  expect(readFileSync(join(folder, 'repo-key.asc'), 'utf8')).toBe('the key\n');
  run('Publish', folder);
  expect(git('-C', 'pages.git', 'ls-tree', '--name-only', 'gh-pages').split('\n')).toEqual([
    ...['.nojekyll', 'new.deb', ''],
  ]);
  expect(git('-C', 'pages.git', 'rev-list', '--count', 'gh-pages').trim()).toBe('1');
});
