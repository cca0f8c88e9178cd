import { execa } from 'execa';
import { generateKeyPairSync } from 'node:crypto';
import { appendFile, cp, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { requestOf, type BuildOptions } from '../../src/cli/request.js';
import type { CellResult } from '../../src/model/cell.js';
import { Dkms2binError } from '../../src/model/errors.js';
import type { Event } from '../../src/model/events.js';
import type { MatrixRun } from '../../src/model/matrix.js';
import type { CellDone, Executor } from '../../src/engine/executor.js';
import { matrix, type MatrixContext } from '../../src/engine/matrix.js';
import { matrixPlan, type MatrixInput, type MatrixPlan } from '../../src/engine/plan/matrix.js';
import { MatrixDocument } from '../../src/model/result-schema.js';
import type { PlannedCell } from '../../src/engine/plan/types.js';
import { cell } from './cli-harness.js';
import { plainSources } from './processes.js';

const FIXTURES = fileURLToPath(new URL('../fixtures', import.meta.url));
const KERNELS = ['6.1.0-2-amd64', '6.1.0-1-amd64'];

let home = '';
let out = '';
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'dk2b-matrix-'));
  out = join(home, 'out');
  for (const name of ['tiny', 'broken', 'lib', 'needs-lib'])
    await cp(join(FIXTURES, name), join(home, name), { recursive: true });
});
afterEach(() => rm(home, { recursive: true, force: true }));

function planOf(
  input: Partial<MatrixInput> = {},
  sources = ['tiny', 'broken'],
  options: BuildOptions = {},
): MatrixPlan {
  return matrixPlan(requestOf({ dkms: sources, outDir: out, verify: false, ...options }, home), {
    sources: sources.map((text) => ({
      source: { kind: 'folder', text, path: join(home, text) },
      names: [`dk2b-${text}`],
    })),
    targets: KERNELS.map((release) => ({
      release,
      distro: 'debian-12',
      arch: 'x86_64',
      packageVersion: '1',
    })),
    ...{ include: [], exclude: [], expectations: [] },
    ...input,
  });
}

/** What a cell comes to here: tiny is built and has a package and a log, broken fails. */
async function resultOf({ source, kernel }: PlannedCell): Promise<CellResult> {
  const base = join(out, `${source}-${kernel}`);
  await writeFile(`${base}.log`, `make ${source}\n`);
  const built = source === 'tiny';
  if (built) await writeFile(`${base}.deb`, 'package');
  return cell({
    ...{ module: `dk2b-${source}`, kernel, log: `${base}.log`, phases: { boot: 1, build: 2 } },
    ...(built
      ? { package: `${base}.deb` }
      : { verdict: 'failed', fault: 'module', reason: 'x.c:1: error', package: null }),
  });
}

/** Ends the cells one by one, in their order; keeps their names. */
class Fake implements Executor {
  readonly built: string[] = [];
  readonly expected: (number | null)[] = [];

  constructor(
    private readonly more: {
      result?: (cell: PlannedCell) => Promise<CellResult>;
      after?: (name: string) => void | Promise<void>;
    } = {},
  ) {}

  async run(...[{ cells }, { signal, begun, ended, expectedSeconds }]: Parameters<Executor['run']>) {
    for (const each of cells) {
      this.expected.push(expectedSeconds(each));
      if (signal.aborted) return;
      begun(each, 'fake');
      const results = [await (this.more.result ?? resultOf)(each)];
      const done: CellDone = { results, worker: 'fake', accelerator: 'tcg', seconds: 7 };
      await ended(each, done);
      this.built.push(`${each.source} ${each.kernel}`);
      await this.more.after?.(this.built.at(-1)!);
    }
  }
}

interface Ran {
  run: MatrixRun;
  history: MatrixRun[];
  events: Event[];
  notes: string;
}

async function ran(plan: MatrixPlan, executor: Executor, options: Partial<MatrixContext> = {}): Promise<Ran> {
  const events: Event[] = [];
  const context: MatrixContext = {
    emit: (event) => void events.push(event),
    signal: new AbortController().signal,
    ...{ resume: false, failFast: false },
    ...options,
  };
  const outcome = await matrix(plan, context, () => executor);
  const notes = events.flatMap((each) => (each.type === 'note' ? [each.message] : [])).join('\n');
  return { ...outcome, events, notes };
}

const outcomes = ({ run }: Ran): string[] => run.cells.map((c) => `${c.source} ${c.kernel} ${c.outcome}`);
const journal = (): string => join(out, '.dkms2bin-matrix', 'journal.ndjson');

/** Builds until Ctrl-C after this many cells. */
async function interrupted(after: number, plan = planOf()): Promise<Ran> {
  const controller = new AbortController();
  const executor: Fake = new Fake({
    after: () => {
      if (executor.built.length === after) controller.abort();
    },
  });
  return ran(plan, executor, { signal: controller.signal });
}

test('a run in words of its schema: outcomes, log, who and when', async () => {
  const plan = planOf({
    expectations: [{ module: 'dk2b-broken', kernel: KERNELS[1]!, reason: 'known bug' }],
  });
  const done = await ran(plan, new Fake());
  expect(MatrixDocument.parse(done.run)).toEqual(done.run);
  expect(outcomes(done)).toEqual([
    ...['tiny 6.1.0-2-amd64 built', 'broken 6.1.0-2-amd64 failed'],
    ...['tiny 6.1.0-1-amd64 built', 'broken 6.1.0-1-amd64 expected-failure'],
  ]);
  expect(done.run).toMatchObject({ complete: true, accelerators: ['tcg'], sources: ['tiny', 'broken'] });
  expect(done.run.cells[3]).toMatchObject({
    ...{ expected: 'known bug', worker: 'fake', seconds: 7, logTail: 'make broken\n', signedBy: null },
  });
  expect(done.events.filter(({ type }) => type === 'cell')).toHaveLength(4);
});

test("a log's end holds more than the commands that make prints", async () => {
  const command = `gcc ${'-Wall '.repeat(600)}x.c\n`;
  const log = `${'early\n'.repeat(20_000)}x.c:1: error\n${command.repeat(20)}make: Error 2\n`;
  const result = async (each: PlannedCell): Promise<CellResult> => {
    const done = await resultOf(each);
    await writeFile(done.log!, log);
    return done;
  };
  const { logTail } = (await ran(planOf({}, ['broken']), new Fake({ result }))).run.cells[0]!;
  expect(logTail).toContain('\nx.c:1: error\ngcc -Wall');
  expect(logTail!.endsWith(' …\nmake: Error 2\n')).toBe(true);
  expect(Buffer.byteLength(logTail!)).toBeLessThanOrEqual(16 * 1024);
  expect(logTail!.split('\n').slice(0, 10)).toEqual(Array.from({ length: 10 }, () => 'early'));
});

test('an expected failure that is built is an unexpected pass', async () => {
  const plan = planOf({ expectations: [{ module: 'tiny', reason: 'old' }] });
  expect(outcomes(await ran(plan, new Fake()))[0]).toBe('tiny 6.1.0-2-amd64 unexpected-pass');
});

describe('history', () => {
  test('is what earlier runs said, and times for this one', async () => {
    const beginner = new Fake();
    const first = await ran(planOf(), beginner);
    expect(first.history).toEqual([]);
    // Of the second kernel, by the times on the first.
    expect(beginner.expected).toEqual([null, null, 7, 7]);
    const executor = new Fake();
    const second = await ran(planOf(), executor);
    expect(second.history).toEqual([
      { ...first.run, cells: first.run.cells.map((c) => ({ ...c, logTail: null })) },
    ]);
    expect(executor.expected).toEqual([7, 7, 7, 7]);
    const event = second.events.find((each) => each.type === 'matrix');
    expect(event?.cells.map(({ seconds }) => seconds)).toEqual([7, 7, 7, 7]);
  });

  test('a document that cannot be read is told and passed over', async () => {
    await ran(planOf(), new Fake());
    const folder = join(out, '.dkms2bin-matrix', 'runs');
    const [name] = await readdir(folder);
    await writeFile(join(folder, name!), '{"half');
    const { history, notes } = await ran(planOf(), new Fake());
    expect(history).toEqual([]);
    expect(notes).toContain(name);
  });
});

describe('fail-fast', () => {
  test('the first failure ends it; what had no turn is said to have had none', async () => {
    const executor = new Fake();
    const done = await ran(planOf(), executor, { failFast: true });
    expect(executor.built).toEqual(['tiny 6.1.0-2-amd64', 'broken 6.1.0-2-amd64']);
    expect(done.run.complete).toBe(false);
    expect(outcomes(done).slice(2)).toEqual([
      ...['tiny 6.1.0-1-amd64 not-run', 'broken 6.1.0-1-amd64 not-run'],
    ]);
  });

  test('an expected failure does not', async () => {
    const plan = planOf({ expectations: [{ module: 'broken', reason: 'known' }] });
    expect((await ran(plan, new Fake(), { failFast: true })).run.complete).toBe(true);
  });
});

describe('resume', () => {
  test('finished cells are not built again; run and start stay, and the document is one of all', async () => {
    const before = await interrupted(3);
    expect(outcomes(before)[3]).toBe('broken 6.1.0-1-amd64 not-run');
    const executor = new Fake();
    const after = await ran(planOf(), executor, { resume: true });
    expect(executor.built).toEqual(['broken 6.1.0-1-amd64']);
    expect(after.run).toMatchObject({ run: before.run.run, startedAt: before.run.startedAt, complete: true });
    expect(after.run.cells.slice(0, 3)).toEqual(before.run.cells.slice(0, 3));
    expect(after.history).toEqual([]);
    expect(await readdir(join(out, '.dkms2bin-matrix', 'runs'))).toEqual([`${before.run.run}.json`]);
  });

  test('a finished one has nothing to resume', async () => {
    await ran(planOf(), new Fake());
    const executor = new Fake();
    const { notes } = await ran(planOf(), executor, { resume: true });
    expect(executor.built).toHaveLength(4);
    expect(notes).toMatch(/No interrupted matrix/);
  });

  test('without --resume it begins anew, and says that it could have been resumed', async () => {
    await interrupted(2);
    const executor = new Fake();
    const { notes } = await ran(planOf(), executor);
    expect(executor.built).toHaveLength(4);
    expect(notes).toMatch(/after 2 of 4 cells; --resume/);
  });

  test('an error is no answer: its cell has its turn again', async () => {
    const controller = new AbortController();
    const failing = new Fake({
      result: (each) =>
        Promise.resolve(
          cell({ kernel: each.kernel, verdict: 'error', fault: 'transient', package: null, log: null }),
        ),
      after: () => controller.abort(),
    });
    await ran(planOf(), failing, { signal: controller.signal });
    const executor = new Fake();
    await ran(planOf(), executor, { resume: true });
    expect(executor.built).toHaveLength(4);
  });

  test('a source that changed, a package that went and a new kernel are built; the rest is not', async () => {
    await interrupted(3);
    await writeFile(join(home, 'broken', 'dk2b_broken.c'), 'int changed;');
    await rm(join(out, `tiny-${KERNELS[1]}.deb`));
    const kernel = { release: '6.1.0-3-amd64', distro: 'debian-12', arch: 'x86_64' } as const;
    const plan = planOf();
    const wider = planOf({ targets: [...plan.cells.map(({ target }) => target), kernel] });
    const executor = new Fake();
    const { notes } = await ran(wider, executor, { resume: true });
    expect(executor.built).toEqual([
      ...['tiny 6.1.0-3-amd64', 'broken 6.1.0-3-amd64'],
      ...['broken 6.1.0-2-amd64', 'tiny 6.1.0-1-amd64', 'broken 6.1.0-1-amd64'],
    ]);
    expect(notes).toMatch(/not the one that was interrupted: 4 cells new or changed, 2 cells gone/);
  });

  test('what needs a source that changed is built again', async () => {
    const plan = (): MatrixPlan => planOf({}, ['needs-lib', 'lib', 'tiny']);
    await interrupted(3, plan());
    await writeFile(join(home, 'lib', 'dk2b_lib.c'), 'int changed;');
    const executor = new Fake();
    await ran(plan(), executor, { resume: true });
    expect(executor.built).not.toContain('tiny 6.1.0-2-amd64');
    expect(executor.built).toEqual(expect.arrayContaining(['needs-lib 6.1.0-2-amd64', 'lib 6.1.0-2-amd64']));
  });

  test('another kernel package of the same name is another input', async () => {
    const file = 'linux-image-6.1.0-2-amd64_1_amd64.deb';
    const plan = (): MatrixPlan => planOf({}, ['tiny', 'broken'], { kernelPackage: [file] });
    await writeFile(join(home, file), 'one');
    await interrupted(3, plan());
    const same = new Fake({ after: () => Promise.reject(new Dkms2binError('host', 'enough')) });
    await expect(ran(plan(), same, { resume: true })).rejects.toThrow('enough');
    expect(same.built).toEqual(['broken 6.1.0-1-amd64']);
    await writeFile(join(home, file), 'two');
    const executor = new Fake();
    await ran(plan(), executor, { resume: true });
    expect(executor.built).toHaveLength(4);
  });

  test('with a key for the provenance cells have their turn again, in which it is signed', async () => {
    await interrupted(3);
    const { privateKey } = generateKeyPairSync('ed25519');
    await writeFile(join(home, 'key.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
    const executor = new Fake();
    await ran(planOf({}, ['tiny', 'broken'], { provenanceKey: 'key.pem' }), executor, { resume: true });
    expect(executor.built).toHaveLength(4);
  });

  test.each(['.log', '.deb.intoto.jsonl', '.deb.cdx.json'])(
    'a cell whose %s went or changed has its turn again, and what is told names only what is there',
    async (end) => {
      const result = async (each: PlannedCell): Promise<CellResult> => {
        const done = await resultOf(each);
        for (const beside of ['.intoto.jsonl', '.cdx.json'])
          if (done.package !== null) await writeFile(`${done.package}${beside}`, '{}');
        return done;
      };
      const controller = new AbortController();
      await ran(planOf({}, ['tiny']), new Fake({ result, after: () => controller.abort() }), {
        signal: controller.signal,
      });
      await rm(join(out, `tiny-${KERNELS[0]}${end}`));
      const executor = new Fake({ result });
      const { run } = await ran(planOf({}, ['tiny']), executor, { resume: true });
      expect(executor.built).toEqual(KERNELS.map((kernel) => `tiny ${kernel}`));
      const names = await readdir(out);
      for (const { package: file, log } of run.cells)
        for (const path of [file, log]) expect(names).toContain(basename(path!));
    },
  );

  test('what is expected now counts, not what was', async () => {
    await interrupted(3);
    const plan = planOf({ expectations: [{ module: 'broken', reason: 'now known' }] });
    expect(outcomes(await ran(plan, new Fake(), { resume: true }))[1]).toBe(
      'broken 6.1.0-2-amd64 expected-failure',
    );
  });

  test.each(['{"id":"x","rows":[', 'rubbish\n'])('a torn line %j is passed over', async (torn) => {
    await interrupted(3);
    await appendFile(journal(), torn);
    const executor = new Fake();
    expect((await ran(planOf(), executor, { resume: true })).run.complete).toBe(true);
    expect(executor.built).toEqual(['broken 6.1.0-1-amd64']);
  });
});

test('two matrices of one folder do not mix', async () => {
  const executor = new Fake({
    after: async () => {
      await expect(ran(planOf(), new Fake())).rejects.toThrow(/Another matrix works in/);
    },
  });
  expect((await ran(planOf({}, ['tiny']), executor)).run.complete).toBe(true);
});

test('what ends the whole run ends it, and what was done can be resumed', async () => {
  const executor = new Fake({
    after: () => {
      throw new Dkms2binError('host', 'the queue is gone');
    },
  });
  await expect(ran(planOf(), executor)).rejects.toThrow('the queue is gone');
  const again = new Fake();
  await ran(planOf(), again, { resume: true });
  expect(again.built).toHaveLength(3);
});

describe('a process that is killed', () => {
  // Real processes: this program runs the sources as plain JavaScript.
  const PROGRAM = `
import { writeFile } from 'node:fs/promises';
import { matrix } from './src/engine/matrix.js';
import { matrixPlan } from './src/engine/plan/matrix.js';
import { requestOf } from './src/cli/request.js';
const [kernels, resume, killAfter] = process.argv.slice(2);
const context = { emit: () => undefined, signal: new AbortController().signal, resume: resume === 'resume', failFast: false };
const path = (text) => new URL('./' + text, import.meta.url).pathname;
const plan = matrixPlan(requestOf({ dkms: ['tiny'], outDir: './out' }, path('')), {
  sources: [{ source: { kind: 'folder', text: 'tiny', path: path('tiny') }, names: [] }],
  targets: kernels.split(',').map((release) => ({ release, distro: 'debian-12', arch: 'x86_64' })),
  include: [], exclude: [], expectations: [],
});
const built = [];
const { run } = await matrix(plan, context, () => ({
  run: async ({ cells }, { begun, ended }) => {
    for (const cell of cells) {
      begun(cell, 'w');
      const { kernel, distro, arch } = cell;
      const result = { module: 'tiny', version: '1', kernel, distro, arch, verdict: 'built', reason: null, package: null,
        log: null, phases: { boot: 1 }, kept: null, fault: null };
      await ended(cell, { results: [result], worker: 'w', accelerator: 'tcg', seconds: 1 });
      built.push(kernel);
      if (built.length === Number(killAfter)) process.kill(process.pid, 'SIGKILL');
    }
  },
}));
console.log(JSON.stringify({ built, outcomes: run.cells.map((cell) => cell.outcome), complete: run.complete }));
`;
  let folder = '';
  beforeAll(async () => {
    folder = await plainSources();
    await cp(join(FIXTURES, 'tiny'), join(folder, 'tiny'), { recursive: true });
    await writeFile(join(folder, 'program.js'), PROGRAM);
    await mkdir(join(folder, 'out'));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test('loses no cell that it had finished', async () => {
    const kernels = ['6.1.0-4-amd64', '6.1.0-3-amd64', '6.1.0-2-amd64', '6.1.0-1-amd64'];
    const program = (...args: string[]): ReturnType<typeof execa> =>
      execa(process.execPath, [join(folder, 'program.js'), kernels.join(','), ...args], { reject: false });
    expect((await program('anew', '2')).signal).toBe('SIGKILL');
    expect((await program('resume', '1')).signal).toBe('SIGKILL');
    const { stdout, stderr } = await program('resume', '0');
    expect(JSON.parse(String(stdout)), String(stderr)).toEqual({
      ...{ built: ['6.1.0-1-amd64'], complete: true },
      outcomes: ['built', 'built', 'built', 'built'],
    });
  });
});
