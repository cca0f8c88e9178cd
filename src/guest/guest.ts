import { posix } from 'node:path';
import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { Transform, Writable, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { StringDecoder } from 'node:string_decoder';
import { Dkms2binError, GuestDeath } from '../model/errors.js';
import { plain, quote } from '../lib/text.js';
import { packedPython, programText, strangeRow, type ProgramName, type Variables } from './program.js';
import {
  AS_LONG_AS_IT_TAKES_MS,
  type Command,
  type Ended,
  type ExecIo,
  type Transport,
} from './transport.js';

/** Where this tool keeps its things inside a guest. */
export const GUEST_DIR = '/var/lib/dkms2bin';

export interface GuestOutput {
  code: number;
  /** Last lines of what was printed, control bytes removed. */
  tail: string;
  /** `@@dkms2bin:NONCE KEY VALUE` lines of the guest's scripts, in order. */
  reports: Report[];
}

export interface GuestOptions {
  transport: Transport;
  /** Races a wait against the VM's death. */
  alive: <T>(work: Promise<T>) => Promise<T>;
}

/** How long a program may run, and who hears the lines that it prints. */
export interface ScriptRun {
  timeoutMs: number;
  /** What to do when it has run for so long. */
  lateHint?: string;
  /** How long it may print nothing; a result line `progress` counts. */
  silenceMs?: number;
  onLine?: (line: string) => void;
  /** Hears each result line as it comes: those of a guest that dies are in no output. */
  onReport?: (report: Report) => void;
}

/** A result line. */
export interface Report {
  key: string;
  value: string;
}

const MAX_REPORTS = 10_000;
const MAX_LINE = 16 * 1024;
const MAX_TEXT = 4 * 1024 * 1024;
/** For bytes on their way: on a busy host an emulated guest may be the last to get the processor. */
const STANDSTILL_MS = 300_000;

/** A root shell in the guest. */
export class Guest {
  constructor(private readonly options: GuestOptions) {}

  #exec(command: Command, io: ExecIo): Promise<Ended> {
    return this.options.alive(this.options.transport.exec(command, io));
  }

  /** As `#exec`, given up by `silence` alone: it is broken by input that is taken, and by the caller for output. */
  async #move(
    command: Command,
    silence: Silence,
    io: Pick<ExecIo, 'input' | 'stdout' | 'stderr'>,
  ): Promise<Ended> {
    const onInput = (): void => silence.broken();
    try {
      return await this.#exec(command, {
        ...io,
        ...{ timeoutMs: AS_LONG_AS_IT_TAKES_MS, giveUp: silence.signal, onInput },
      });
    } finally {
      silence.end();
    }
  }

  /** Puts a local file, or bytes, at `path` in the guest; its folder is made. */
  async put(source: { file: string } | { bytes: Buffer }, path: string): Promise<void> {
    const stderr = new Collector(MAX_TEXT);
    const ended = await this.#move(
      { sh: `umask 022; mkdir -p ${quote(posix.dirname(path))} && cat > ${quote(path)}` },
      new Silence(STANDSTILL_MS),
      { input: 'file' in source ? source : source.bytes, stdout: new Collector(0), stderr },
    );
    if (ended.code !== 0) {
      throw new Dkms2binError('transient', `Could not send ${path} to the guest: ${stderr.brief(ended)}`);
    }
  }

  /**
   * Runs a program of cloud-init/guest as root: a shell script, or a Python program (`.py`), which may get `input`. Resolves
   * whatever its exit code is; lines reach `onLine` as they come. Rejects when the connection breaks, the VM dies or
   * `timeoutMs` passes. Called by the programs' wrappers (programs/).
   */
  async script(
    name: ProgramName,
    vars: Variables,
    options: ScriptRun & { input?: Buffer },
  ): Promise<GuestOutput> {
    const nonce = randomBytes(16).toString('hex');
    const { command, input } = await commandOf(name, vars, { nonce, input: options.input });
    const form = new RegExp(`^@@dkms2bin:${nonce} (\\S{1,64}) ?(.*)$`);
    const reports: GuestOutput['reports'] = [];
    const tail: string[] = [];
    const silence = new Silence(options.silenceMs);
    const sink = (line: string, whole: boolean): void => {
      silence.broken();
      // What a line goes on with after it was cut is never a report.
      const [, key, value = ''] = (whole && form.exec(line)) || [];
      if (key === 'progress') return;
      if (key !== undefined && reports.length < MAX_REPORTS) {
        const report = { key, value: plain(value) };
        reports.push(report);
        options.onReport?.(report);
        return;
      }
      const clean = plain(line);
      tail.push(clean);
      if (tail.length > 40) tail.shift();
      options.onLine?.(clean);
    };
    const said = (): string => tail.slice(-5).join('\n');
    let ended: Ended;
    try {
      ended = await this.#exec(command, {
        ...(input === undefined ? {} : { input }),
        stdout: new Lines(sink),
        stderr: new Lines(sink),
        timeoutMs: options.timeoutMs,
        giveUp: silence.signal,
      });
    } catch (error) {
      if (
        error instanceof GuestDeath ||
        !(error instanceof Dkms2binError) ||
        error.fault !== 'transient' ||
        tail.length === 0
      )
        throw error;
      throw new Dkms2binError('transient', `${error.message} during ${name}:\n${said()}`, { cause: error });
    } finally {
      silence.end();
    }
    if (ended.timedOut) {
      const { timeoutMs, lateHint, silenceMs = 0 } = options;
      const seconds = (ms: number): number => Math.round(ms / 1000);
      const message = silence.signal.aborted
        ? `${name} has done nothing in the guest for ${seconds(silenceMs)} s; it last said:\n${said()}`
        : `${name} did not end within ${seconds(timeoutMs)} s in the guest; it last said:\n${said()}`;
      const hint = lateHint === undefined ? {} : { hint: lateHint };
      throw silence.signal.aborted
        ? new GuestDeath('silent', message, '', hint)
        : new Dkms2binError('transient', message, hint);
    }
    if (ended.code === null) {
      throw new Dkms2binError('transient', `${name} was killed in the guest:\n${said()}`);
    }
    const strange = strangeRow(name, reports);
    if (strange) throw nonsense(strange);
    return { code: ended.code, tail: tail.join('\n'), reports };
  }

  /**
   * Runs a Python program of cloud-init/guest whose standard output is bytes; the caller reads them with limits. It is given up once
   * it has neither read nor written for `silenceMs`.
   */
  async program(
    name: ProgramName,
    vars: Variables,
    { silenceMs = STANDSTILL_MS, input: bytes }: { silenceMs?: number; input?: Buffer } = {},
  ): Promise<{ stdout: Readable; done: Promise<void> }> {
    const { command, input } = await commandOf(name, vars, { nonce: '', input: bytes });
    const silence = new Silence(silenceMs);
    const stdout = new Transform({
      transform(chunk: Buffer, _encoding, callback) {
        silence.broken();
        callback(null, chunk);
      },
    });
    const stderr = new Collector(MAX_TEXT);
    const running = this.#move(command, silence, {
      ...(input === undefined ? {} : { input }),
      stdout,
      stderr,
    });
    const done = running.then((ended) => {
      if (ended.code !== 0) {
        throw new Dkms2binError('transient', `${name} failed in the guest: ${stderr.brief(ended)}`);
      }
    });
    done.catch((error: unknown) => stdout.destroy(error as Error));
    return { stdout, done };
  }

  /** One short command as root; its standard output. Throws when it fails. */
  async text(command: string, timeoutMs = 120_000): Promise<string> {
    const stdout = new Collector(MAX_TEXT);
    const stderr = new Collector(MAX_TEXT);
    const ended = await this.#exec({ sh: command }, { stdout, stderr, timeoutMs });
    if (ended.code !== 0) {
      throw new Dkms2binError('transient', `\`${command}\` failed in the guest: ${stderr.brief(ended)}`);
    }
    return stdout.text();
  }

  /** Copies a guest file to `to` on the host; fails when it has more than `maxBytes`. */
  async fetch(path: string, to: string, maxBytes: number): Promise<void> {
    let bytes = 0;
    const silence = new Silence(STANDSTILL_MS);
    const cap = new Transform({
      transform(chunk: Buffer, _encoding, callback) {
        bytes += chunk.length;
        silence.broken();
        if (bytes > maxBytes) {
          callback(
            new Dkms2binError('module', `${path} in the guest is larger than ${maxBytes} bytes`, {
              hint: 'Real files of this kind are far smaller: look at where it comes from.',
            }),
          );
        } else callback(null, chunk);
      },
    });
    const stderr = new Collector(MAX_TEXT);
    const written = pipeline(cap, createWriteStream(to));
    written.catch(() => undefined);
    const ended = await this.#move({ sh: `head -c ${maxBytes + 1} ${quote(path)}` }, silence, {
      stdout: cap,
      stderr,
    });
    await written;
    if (ended.code !== 0) {
      throw new Dkms2binError('transient', `Could not fetch ${path} from the guest: ${stderr.brief(ended)}`);
    }
  }

  async close(): Promise<void> {
    await this.options.transport.close();
  }
}

/** For a result line that a program does not print, or not there. */
export const nonsense = ({ key, value }: Report): Dkms2binError =>
  new Dkms2binError('transient', `The guest reports what makes no sense: ${`${key} ${value}`.slice(0, 200)}`);

/** `nonce` is the word in front of its result lines; a program that has none gets an empty one. */
async function commandOf(
  name: ProgramName,
  vars: Variables,
  { nonce, input }: { nonce: string; input: Buffer | undefined },
): Promise<{ command: Command; input: string | Buffer | undefined }> {
  if (name.endsWith('.py')) {
    return { command: { python: packedPython(await programText(name, { NONCE: nonce, ...vars })) }, input };
  }
  // Stored as a file, because a child that reads stdin must not eat the script. The nonce is not in it: whatever runs in the
  // guest can read the file.
  const path = `${GUEST_DIR}/${name}`;
  const keep = `IFS= read -r nonce && mkdir -p ${GUEST_DIR} && cat > ${path}`;
  return {
    command: { sh: `${keep} && exec bash ${path} </dev/null 2>&1 9<<END\n$nonce\nEND\n` },
    input: `${nonce}\n${await programText(name, vars)}`,
  };
}

/** Aborts its signal once `ms` have passed without a word; never without `ms`. */
class Silence {
  readonly #over = new AbortController();
  readonly signal = this.#over.signal;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(ms: number | undefined) {
    if (ms !== undefined) this.#timer = setTimeout(() => this.#over.abort(), ms);
  }

  broken(): void {
    this.#timer?.refresh();
  }

  end(): void {
    clearTimeout(this.#timer);
  }
}

/** Keeps the first `limit` bytes and lets the rest go. */
class Collector extends Writable {
  #kept = Buffer.alloc(0);
  #bytes = 0;

  constructor(private readonly limit: number) {
    super();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    const taken = chunk.subarray(0, this.limit - this.#bytes);
    const end = this.#bytes + taken.length;
    // A guest that writes single bytes must not cost us an object for each.
    if (end > this.#kept.length) {
      const larger = Buffer.alloc(Math.min(this.limit, Math.max(end, 2 * this.#kept.length)));
      this.#kept.copy(larger, 0, 0, this.#bytes);
      this.#kept = larger;
    }
    taken.copy(this.#kept, this.#bytes);
    this.#bytes = end;
    callback();
  }

  text(): string {
    return this.#kept.toString('utf8', 0, this.#bytes);
  }

  /** Why a command ended badly, in a line for an error. */
  brief(ended: Ended): string {
    const how = ended.timedOut ? 'out of time' : `exit code ${String(ended.code ?? 'none, killed')}`;
    const said = plain(this.text()).trim().slice(-500);
    return said === '' ? how : `${said} (${how})`;
  }
}

/** What stands before the rest of a line that was too long. */
const CONTINUED = '… ';

/**
 * Splits text into lines. A guest that never ends its line must not fill our memory: a long one comes in pieces, of which only
 * the first may be `whole`, and only when there is no other.
 */
class Lines extends Writable {
  #rest = '';
  /** A piece of the line that is being read has been given away. */
  #cut = false;
  readonly #decoder = new StringDecoder('utf8');

  constructor(private readonly sink: (line: string, whole: boolean) => void) {
    super();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    this.#rest += this.#decoder.write(chunk);
    const lines = this.#rest.split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#give(line, true);
    if (this.#rest.length > MAX_LINE) {
      this.#give(this.#rest, false);
      this.#rest = '';
    }
    callback();
  }

  override _final(callback: () => void): void {
    this.#rest += this.#decoder.end();
    if (this.#rest !== '') this.#give(this.#rest, true);
    callback();
  }

  /** Of a piece that is too long itself the end is left out. */
  #give(text: string, ends: boolean): void {
    const whole = !this.#cut && ends && text.length <= MAX_LINE;
    if (text !== '' || !this.#cut) this.sink((this.#cut ? CONTINUED : '') + text.slice(0, MAX_LINE), whole);
    this.#cut = !ends;
  }
}

/**
 * cloud-init may hang for ever, so it is given up when its log has not grown for `silenceMs`. Its result file is read instead of
 * `cloud-init status`, which costs seconds of emulated Python. Resolves with what went wrong inside cloud-init: ssh answers, so the run goes on.
 */
export async function waitForCloudInit(guest: Guest, silenceMs: number): Promise<string[]> {
  const result = '/run/cloud-init/result.json';
  const size = 'stat -c %s /var/log/cloud-init.log 2>/dev/null';
  const tries = Math.ceil(silenceMs / 1000);
  const text = await guest.text(
    `i=0 was=; while [ ! -s ${result} ] && [ $i -lt ${tries} ]; do sleep 1; now=$(${size}); ` +
      `[ "$now" = "$was" ] || i=0; was=$now; i=$((i+1)); done; cat ${result} || true`,
    AS_LONG_AS_IT_TAKES_MS,
  );
  if (text.trim() === '') {
    throw new Dkms2binError(
      'transient',
      `cloud-init has done nothing for ${silenceMs / 1000} s and has not ended`,
      {
        hint: 'Read the console log of the run; is cloud-init switched off in this image?',
      },
    );
  }
  const errors = /"errors":\s*\[([^\]]*)\]/.exec(text)?.[1]?.trim() ?? '';
  return errors === '' ? [] : [`cloud-init ended with errors: ${plain(errors).slice(0, 400)}`];
}
