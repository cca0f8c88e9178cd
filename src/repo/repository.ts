import { readdir, readFile, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Dkms2binError, messageOf } from '../model/errors.js';
import type { Emit } from '../model/events.js';
import { writeAtomic } from '../lib/atomic-write.js';
import { standardVariable } from '../lib/variables.js';
import type { SigningKey } from './signing.js';
import { makeFolder } from '../lib/make-folder.js';

/** Superseded indexes stay for a day and, however old, the last three generations of three files. */
const SUPERSEDED_SECONDS = 86_400;
const SUPERSEDED_FILES = 9;

/** Metadata that say when they were made. */
interface Dated {
  /** What is there; null without. */
  before: string | null;
  /** The file that is written last. */
  last: string;
  /** Seconds since 1970 that such metadata say. */
  dateOf: (text: string) => number | undefined;
  make: (date: number) => string;
}

/** A repository's folder, and whether this run changed anything in it. Paths are relative to it. */
export class Repository {
  changed = false;

  constructor(
    readonly dir: string,
    private readonly context: {
      key: SigningKey | undefined;
      emit: Emit;
      signal: AbortSignal;
      date?: number | undefined;
    },
  ) {}

  /** Null when there is no such file. */
  async read(path: string): Promise<string | null> {
    try {
      return await readFile(join(this.dir, path), 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw new Dkms2binError('usage', `Cannot read ${path} of ${this.dir}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async write(path: string, content: Buffer | string): Promise<void> {
    if (this.context.signal.aborted) throw new Dkms2binError('interrupted', 'Interrupted');
    const { status } = await writeAtomic(Buffer.from(content), join(this.dir, path));
    this.changed ||= status === 'written';
  }

  async remove(path: string): Promise<void> {
    try {
      await rm(join(this.dir, path), { force: true });
      this.changed = true;
    } catch (error) {
      throw new Dkms2binError('usage', `Cannot delete ${path} of ${this.dir}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async folder(path: string): Promise<void> {
    try {
      await makeFolder(join(this.dir, path));
    } catch (error) {
      const fault = (error as NodeJS.ErrnoException).code === 'ENOSPC' ? 'host' : 'usage';
      throw new Dkms2binError(fault, `Cannot make ${path} in ${this.dir}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** An unsigned index beside an old signature would break all clients, one without it those that want it signed. */
  async checkStaysSigned(): Promise<void> {
    if (this.context.key) return;
    const signatures = ['InRelease', 'Release.gpg', 'repodata/repomd.xml.asc'];
    const there: string[] = [];
    for (const path of signatures) if ((await this.read(path)) !== null) there.push(path);
    if (there.length === 0) return;
    throw new Dkms2binError('usage', `The repository ${this.dir} is signed, and no key was given`, {
      hint: `Give its key with --repo-key. To make it an unsigned one, remove ${there.join(', ')} first.`,
    });
  }

  /** Writes a detached signature of `text`, where the repository is signed. One that is good stays: there is a time in it. */
  async writeDetached(path: string, text: string): Promise<void> {
    const { key } = this.context;
    if (!key) return;
    const there = await this.read(path);
    if (there === null || !(await key.isDetachSigned(there, text))) {
      await this.write(path, await key.detachSign(text));
    }
  }

  /** As `writeDetached`, of the text within its signature. */
  async writeClearSigned(path: string, text: string): Promise<void> {
    const { key } = this.context;
    if (!key) return;
    const there = await this.read(path);
    if (there === null || !(await key.isClearSigned(there, text))) {
      await this.write(path, await key.clearSign(text));
    }
  }

  /** The text with the date of what is there when nothing but the date would change, else with a new one. */
  async dated({ before, last, dateOf, make }: Dated): Promise<string> {
    const previous = before === null ? undefined : dateOf(before);
    const fixed = this.context.date ?? sourceDate();
    if (before !== null && previous !== undefined && fixed === undefined && make(previous) === before) {
      return before;
    }
    if (fixed === undefined) await this.#untilLater(previous, last);
    const now = fixed ?? seconds();
    if (previous !== undefined && now < previous) {
      this.context.emit({
        type: 'note',
        level: 'warn',
        message: `The repository was last published with the later date ${new Date(previous * 1000).toISOString()}: apt clients that have read it reject anything older. Check this host's clock, and SOURCE_DATE_EPOCH if it is set.`,
      });
    }
    return make(now);
  }

  /**
   * Waits for the second after `previous`, the time of what is replaced, and after the one in which `last` was written. HTTP
   * knows times by the second: to a client that has just read the old file, the new one must look newer.
   */
  async #untilLater(previous: number | undefined, last: string): Promise<void> {
    const info = await stat(join(this.dir, last)).catch(() => null);
    const written = info && Math.floor(info.mtimeMs / 1000);
    if (previous !== seconds() && written !== seconds()) return;
    await sleep(1005 - (Date.now() % 1000), undefined, { signal: this.context.signal }).catch(
      () => undefined,
    );
  }

  /** Starts the time for which superseded files are kept. */
  async supersede(folder: string, names: Iterable<string>, current: ReadonlySet<string>): Promise<void> {
    const now = new Date();
    for (const name of new Set(names)) {
      // Gone, or another user's: then its time has started before.
      if (!current.has(name)) await utimes(join(this.dir, folder, name), now, now).catch(() => undefined);
    }
  }

  /** Deletes files of a shape that were superseded long ago. */
  async expire(folder: string, shape: RegExp, current: ReadonlySet<string>): Promise<void> {
    const files: { name: string; at: number }[] = [];
    for (const name of await readdir(join(this.dir, folder))) {
      if (!shape.test(name) || current.has(name)) continue;
      const info = await stat(join(this.dir, folder, name)).catch(() => null);
      if (info) files.push({ name, at: info.mtimeMs });
    }
    files.sort((a, b) => b.at - a.at);
    for (const { name, at } of files.slice(SUPERSEDED_FILES)) {
      if (Date.now() - at > SUPERSEDED_SECONDS * 1000) await this.remove(`${folder}/${name}`);
    }
  }
}

const seconds = (): number => Math.floor(Date.now() / 1000);

/** The time that SOURCE_DATE_EPOCH fixes, in seconds since 1970; undefined without. */
function sourceDate(): number | undefined {
  const epoch = standardVariable('SOURCE_DATE_EPOCH');
  if (epoch === undefined || epoch === '') return undefined;
  if (!/^\d{1,11}$/.test(epoch)) {
    throw new Dkms2binError('usage', `Not a time (SOURCE_DATE_EPOCH): ${JSON.stringify(epoch)}`);
  }
  return Number(epoch);
}

/** Why a folder cannot be used as a repository. */
export async function noRepository(dir: string): Promise<Dkms2binError> {
  const found = await stat(dir).catch(() => null);
  if (found?.isDirectory()) {
    return new Dkms2binError('usage', `${dir} is not a package repository`, {
      hint: `Make it one: dkms2bin repo ${dir}`,
    });
  }
  return new Dkms2binError('usage', `${dir}: ${found ? 'it is no folder' : 'no such folder'}`, {
    hint: 'Give the folder of a repository: an --out-dir that dkms2bin repo, or --repo, has made one of.',
  });
}
