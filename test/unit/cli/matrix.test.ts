import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Engine } from '../../../src/cli/services.js';
import { Dkms2binError } from '../../../src/model/errors.js';
import type { MatrixCell, MatrixRun, Outcome } from '../../../src/model/matrix.js';
import type { MatrixContext, MatrixOutcome, MatrixRules } from '../../../src/engine/matrix.js';
import { matrixPlan } from '../../../src/engine/plan/matrix.js';
import { MatrixDocument } from '../../../src/model/result-schema.js';
import type { BuildRequest } from '../../../src/options/request.js';
import { cell, cli, type Fake } from '../fixtures/cli-harness.js';

let folder = '';
beforeEach(async () => void (folder = await mkdtemp(join(tmpdir(), 'dk2b-cli-matrix-'))));
afterEach(() => rm(folder, { recursive: true, force: true }));

function row(outcome: Outcome, more: Partial<MatrixCell> = {}): MatrixCell {
  const verdict = {
    ...{ built: 'built', 'up-to-date': 'built', 'unexpected-pass': 'built', skipped: 'skipped' },
    ...{ failed: 'failed', 'expected-failure': 'failed', error: 'error', 'not-run': null },
  }[outcome] as MatrixCell['verdict'];
  const bad = verdict === 'failed' || verdict === 'error';
  return {
    ...cell({ ...(bad && { fault: 'module', reason: 'x.c:1: error\x1b[2J', package: null }) }),
    ...{ source: 'acpi-call-dkms', verdict, outcome, expected: null, signedBy: null, logTail: null },
    ...{ startedAt: null, seconds: null, worker: null },
    ...more,
  };
}

function runOf(cells: MatrixCell[], more: Partial<MatrixRun> = {}): MatrixRun {
  return {
    ...{ schemaVersion: 1, run: '20260101T000000-abcdef', tool: '0', complete: true, accelerators: ['tcg'] },
    ...{ startedAt: '2026-01-01T00:00:00Z', endedAt: '2026-01-01T00:01:00Z', kernels: [], sources: [] },
    cells,
    ...more,
  };
}

interface Asked {
  request?: BuildRequest;
  rules?: MatrixRules;
  context?: MatrixContext;
}

/** A fake engine whose matrix comes to this; keeps what it was asked. */
function engine(run: MatrixRun, more: Fake = {}): Fake & { asked: Asked } {
  const asked: Asked = {};
  const planMatrix: Engine['planMatrix'] = (request, rules) => {
    Object.assign(asked, { request, rules });
    const source = { kind: 'repo', text: 'acpi-call-dkms', name: 'acpi-call-dkms' } as const;
    const target = { release: '6.1.0-56-amd64', distro: 'debian-12', arch: 'x86_64' } as const;
    const rest = { include: [], exclude: [{ module: 'gone' }], expectations: [] };
    const input = { sources: [{ source, names: [] }], targets: [target], ...rest };
    return Promise.resolve(matrixPlan(request, input));
  };
  const matrix = (_: unknown, context: MatrixContext): Promise<MatrixOutcome> => {
    asked.context = context;
    context.emit({ type: 'cell', cell: 'a × b', verdict: 'built' });
    return Promise.resolve({ run, history: [] });
  };
  return { asked, planMatrix, matrix, ...more };
}

test.each<[Outcome[], number]>([
  [['built', 'up-to-date', 'skipped', 'expected-failure'], 0],
  [['built', 'failed'], 1],
  [['unexpected-pass'], 1],
  [['failed', 'not-run'], 1],
])('%j ends with %i', async (all, code) => {
  expect((await cli(['matrix'], engine(runOf(all.map((each) => row(each)))))).code).toBe(code);
});

test('an error counts by its fault, and before a failure', async () => {
  const cells = [row('failed'), row('error', { fault: 'not-found' })];
  expect((await cli(['matrix'], engine(runOf(cells)))).code).toBe(3);
});

test('a table, where to look next, and what in the file fits nothing; nothing of a guest moves the cursor', async () => {
  const cells = [row('built'), row('failed', { kernel: '6.1.0-55-amd64', kept: 'run\x1b7' })];
  const { stdout, stderr } = await cli(['matrix'], engine(runOf(cells)));
  expect(stdout).toMatch(/acpi_call 1\.2\.2 on 6\.1\.0-55-amd64: x\.c:1: error/);
  expect(stderr).toContain('log of acpi_call on 6.1.0-55-amd64: /out/acpi_call.log\n');
  expect(stderr).toMatch(/^log in to acpi_call on 6\.1\.0-55-amd64: dkms2bin login run/m);
  expect(stderr).toContain('exclude of module gone matches no cell');
  expect(stdout + stderr).not.toContain('\x1b');
});

test('annotations come where a runner reads them, also beside a document', async () => {
  const fake = engine(runOf([row('failed')]));
  const { stdout, stderr } = await cli(['matrix', '--json'], fake, { env: { GITHUB_ACTIONS: 'true' } });
  expect(stderr).toMatch(/^::error /m);
  expect(JSON.parse(stdout)).toMatchObject({ cells: [{ outcome: 'failed' }] });
  expect((await cli(['matrix'], fake)).stderr).not.toContain('::error');
});

test('the section of the config file is the matrix; what is typed wins', async () => {
  const loadConfig: Engine['loadConfig'] = () =>
    Promise.resolve({
      ...{ dkms: ['a'], kernel: 'latest', distro: 'debian-12', jobs: 2 },
      matrix: {
        ...{ modules: ['b', 'c'], distros: ['debian-12', 'debian-13'], 'fail-fast': true },
        'expect-failure': [{ module: 'b', reason: 'r' }],
      },
    });
  const of = async (...argv: string[]): Promise<Asked> => {
    const fake = engine(runOf([row('built')]), { loadConfig });
    expect((await cli(['matrix', ...argv], fake)).code).toBe(0);
    return fake.asked;
  };
  expect(await of()).toMatchObject({
    request: { dkms: ['b', 'c'], kernels: ['latest'], jobs: 2 },
    rules: { distros: ['debian-12', 'debian-13'], 'expect-failure': [{ module: 'b' }] },
    context: { failFast: true, resume: false },
  });
  expect(
    await of('--dkms', 'd', '--distro', 'debian-11,debian-sid', '--distro', 'x', '--resume'),
  ).toMatchObject({
    request: { dkms: ['d'] },
    rules: { distros: ['debian-11', 'debian-sid', 'x'] },
    context: { resume: true },
  });
});

describe('--json', () => {
  test('the document of its schema alone is on stdout', async () => {
    const run = runOf([row('built'), row('not-run')], { complete: false });
    const { stdout } = await cli(['matrix', '--json'], engine(run));
    expect(MatrixDocument.parse(JSON.parse(stdout))).toEqual(run);
  });

  test('also of what ended it before it began', async () => {
    const planMatrix = (): never => {
      throw new Dkms2binError('not-found', 'no such kernel');
    };
    const { code, stdout } = await cli(['matrix', '--json'], { planMatrix });
    expect(code).toBe(3);
    expect(MatrixDocument.parse(JSON.parse(stdout))).toMatchObject({ error: { fault: 'not-found' } });
  });
});

test('interrupted: what is done is told all the same', async () => {
  const controller = new AbortController();
  controller.abort();
  const run = runOf([row('built'), row('not-run')], { complete: false });
  const { code, stdout, stderr } = await cli(['matrix'], engine(run), { signal: controller.signal });
  expect(code).toBe(130);
  expect(stdout).toContain('ended early');
  expect(stderr).toContain('--resume continues it\n');
});

test('--report and --events write files beside the result', async () => {
  const run = runOf([row('built')]);
  const files = ['r.json', 'r.xml', 'r.md', 'r.html', 'e.ndjson'].map((name) => join(folder, name));
  const [json, xml, md, html, events] = files as [string, string, string, string, string];
  const reports = [json, xml, md, html].flatMap((file) => ['--report', file]);
  const { code, stdout, stderr } = await cli(['matrix', ...reports, '--events', events], engine(run));
  expect(code, stderr).toBe(0);
  expect(stdout).not.toBe('');
  expect(JSON.parse(await readFile(json, 'utf8'))).toEqual(run);
  expect(await readFile(xml, 'utf8')).toMatch(/<testsuite/);
  expect(await readFile(md, 'utf8')).toContain('1 module');
  expect(await readFile(html, 'utf8')).toMatch(/^<!doctype html>/);
  const lines = (await readFile(events, 'utf8')).trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line) as unknown)).toContainEqual({
    ...{
      time: expect.stringMatching(/^\d{4}-.*Z$/) as unknown,
      type: 'cell',
      cell: 'a × b',
      verdict: 'built',
    },
  });
});

test('--events in an out-dir that is not there yet', async () => {
  const outDir = join(folder, 'out');
  const events = join(outDir, 'logs', 'e.ndjson');
  const argv = ['matrix', '--out-dir', outDir, '--events', events];
  const { code, stderr } = await cli(argv, engine(runOf([row('built')])));
  expect(code, stderr).toBe(0);
  expect(await readFile(events, 'utf8')).toContain('"type":"cell"');
});

test.each([
  [['--report', 'x.pdf'], /unknown kind of report/],
  [['--events', '/nonexistent/x'], /cannot be written/],
])('%j is refused before anything is built', async (argv, message) => {
  const { code, stderr } = await cli(['matrix', ...argv]);
  expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
});

test('a report that cannot be written costs the exit code, not the result', async () => {
  const path = join(folder, 'missing', 'r.json');
  const { code, stdout, stderr } = await cli(['matrix', '--report', path], engine(runOf([row('built')])));
  expect([code, stdout]).toEqual([2, expect.stringMatching(/built/)]);
  expect(stderr).toContain(path);
});

test('--dry-run prints the plan and builds nothing', async () => {
  const { code, stdout } = await cli(['matrix', '--dry-run', '--json'], {
    ...engine(runOf([])),
    matrix: undefined as never,
  });
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ plan: { sources: ['acpi-call-dkms'] } });
});
