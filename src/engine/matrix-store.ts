import { mkdir, open, readdir, readFile, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { provenancePath, readBundle } from '../attest/provenance.js';
import { sbomPath } from '../attest/sbom.js';
import { contentDigest } from '../cache/entries.js';
import type { Emit } from '../model/events.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { lock, type Lock } from '../lib/lock.js';
import type { MatrixCell, MatrixRun } from '../model/matrix.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { MatrixRunShape } from '../model/result-schema.js';

/** Earlier runs whose documents are kept. */
const KEPT_RUNS = 50;

const Header = z.object({
  schemaVersion: z.literal(1),
  run: z.string(),
  startedAt: z.string(),
  /** Of all cells. */
  ids: z.array(z.string()),
});
export type JournalHeader = z.infer<typeof Header>;

const Finished = z.object({
  id: z.string(),
  rows: z.array(MatrixRunShape.shape.cells.element).min(1),
  accelerator: z.string().nullable(),
  /** SHA-256 by path: what was published of it. */
  files: z.record(z.string(), z.string()),
});
/** A cell that has ended. `id` is the identity of its inputs. */
export type FinishedCell = z.infer<typeof Finished>;

/**
 * What matrices leave below the out-dir: the journal of the one that runs or was interrupted, and the documents of
 * earlier ones. One process at a time has it.
 */
export class MatrixStore implements AsyncDisposable {
  #journal: FileHandle | null = null;

  private constructor(
    private readonly dir: string,
    private readonly held: Lock,
    private readonly emit: Emit,
  ) {}

  /** Throws `usage` when another matrix has the folder. */
  static async open(outDir: string, emit: Emit): Promise<MatrixStore> {
    const dir = join(outDir, '.dkms2bin-matrix');
    await mkdir(join(dir, 'runs'), { recursive: true });
    const held = await lock(join(dir, 'lock'), 'exclusive', { wait: false });
    if (held) return new MatrixStore(dir, held, emit);
    throw new Dkms2binError('usage', `Another matrix works in ${outDir}`, {
      hint: 'Wait until it has ended, or give this one another --out-dir.',
    });
  }

  get #path(): string {
    return join(this.dir, 'journal.ndjson');
  }

  /**
   * What an interrupted matrix has finished; null when none was interrupted. A last line that a kill cut off is passed
   * over, and so is a cell of whose files one has gone or is another one now.
   */
  async interrupted(): Promise<{ header: JournalHeader; finished: FinishedCell[] } | null> {
    const text = await readFile(this.#path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return null;
      throw error;
    });
    if (text === null) return null;
    const [first = '', ...rest] = text.split('\n').slice(0, -1);
    const header = Header.safeParse(parsed(first));
    if (!header.success) {
      this.#warn(`${this.#path} is not used: it has no head that this version can read`);
      return null;
    }
    const finished: FinishedCell[] = [];
    for (const line of rest) {
      const each = Finished.safeParse(parsed(line));
      if (!each.success) this.#warn(`A line of ${this.#path} is not used: it cannot be read`);
      else if (await sameFiles(each.data)) finished.push(each.data);
    }
    return { header: header.data, finished };
  }

  /** Begins a journal anew, or again with what is taken over from an interrupted matrix. */
  async begin(header: JournalHeader, finished: readonly FinishedCell[]): Promise<void> {
    const lines = [header, ...finished].map((each) => `${JSON.stringify(each)}\n`);
    await writeAtomic(Buffer.from(lines.join('')), this.#path);
    this.#journal = await open(this.#path, 'a');
  }

  /** The line is on the disk when this resolves. */
  async append(cell: FinishedCell): Promise<void> {
    if (!this.#journal) throw new Error('a journal that was not begun');
    await this.#journal.appendFile(`${JSON.stringify(cell)}\n`);
    await this.#journal.datasync();
  }

  /** Documents of earlier runs, the oldest first, without the tails of their logs. */
  async history(): Promise<MatrixRun[]> {
    const runs: MatrixRun[] = [];
    for (const name of await this.#documents()) {
      const path = join(this.dir, 'runs', name);
      const run = MatrixRunShape.safeParse(parsed(await readFile(path, 'utf8').catch(() => '')));
      if (run.success) runs.push(run.data);
      else this.#warn(`${path} is not used: it cannot be read`);
    }
    return runs;
  }

  /** Keeps the document of a run that ended; the journal of one that all had their turn in has done its duty. */
  async end(run: MatrixRun): Promise<void> {
    await this.#close();
    const kept = { ...run, cells: run.cells.map((cell) => ({ ...cell, logTail: null })) };
    if (run.cells.some(({ verdict }) => verdict !== null))
      await writeAtomic(Buffer.from(`${JSON.stringify(kept)}\n`), join(this.dir, 'runs', `${run.run}.json`));
    for (const name of (await this.#documents()).slice(0, -KEPT_RUNS))
      await rm(join(this.dir, 'runs', name), { force: true });
    if (run.complete) await rm(this.#path, { force: true });
  }

  async #documents(): Promise<string[]> {
    const names = await readdir(join(this.dir, 'runs'));
    return names.filter((name) => /^[0-9T]+-[0-9a-f]+\.json$/.test(name)).sort();
  }

  #warn(message: string): void {
    this.emit({ type: 'note', level: 'warn', message });
  }

  async #close(): Promise<void> {
    await this.#journal?.close();
    this.#journal = null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
    await this.held.release();
  }
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw new Error(messageOf(error));
  }
}

/** Digests of the files that belong to these rows, as they are now: packages, logs, and what lies beside a package. */
export async function filesOf(rows: readonly MatrixCell[]): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  const add = async (path: string): Promise<void> => {
    const digest = await digestOf(path);
    if (digest !== null) digests[path] = digest;
  };
  for (const { package: main, log } of rows) {
    if (log !== null) await add(log);
    if (main === null) continue;
    // What lies beside a package that kernels share, each of their cells writes anew.
    for (const path of [provenancePath(main), sbomPath(main), ...(await packagesWith(main))]) await add(path);
  }
  return digests;
}

/** A module's package and the others that were made of it, as its provenance names them. */
async function packagesWith(main: string): Promise<string[]> {
  const statements = await readBundle(provenancePath(main)).catch((error: unknown) => {
    if (error instanceof Dkms2binError) return [];
    throw error;
  });
  const names = statements.flatMap(({ subject }) => subject.map(({ name }) => name));
  const others = names.filter((name) => name === basename(name)).map((name) => join(dirname(main), name));
  return [...new Set([main, ...others])];
}

async function sameFiles({ rows, files }: FinishedCell): Promise<boolean> {
  const named = rows.flatMap(({ package: file, log }) => [file, log].filter((path) => path !== null));
  if (!named.every((path) => Object.hasOwn(files, path))) return false;
  for (const [path, digest] of Object.entries(files)) if ((await digestOf(path)) !== digest) return false;
  return true;
}

/** Null for a file that is not there. */
const digestOf = (path: string): Promise<string | null> => contentDigest(path).catch(() => null);
