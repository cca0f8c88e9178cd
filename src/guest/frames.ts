import { createHash } from 'node:crypto';
import type { ZodType } from 'zod';
import { Dkms2binError, messageOf } from '../model/errors.js';

/**
 * What comes from a guest: blobs, each after an ASCII line `DKMS2BIN1 <kind> <index> <size>\n`, and a last line
 * `DKMS2BIN1 end <sha256 of all blob bytes in order> 0\n`. `index` counts from 0 over the whole stream. File names are
 * never part of a header: they come as JSON in a blob (see frameJson), and the host names the files it writes.
 */
export interface Frame {
  kind: string;
  index: number;
  bytes: Buffer;
}

export interface FrameLimits {
  /** Blobs in the stream. */
  count: number;
  /** Bytes of one blob. */
  single: number;
  /** Bytes of all blobs. */
  total: number;
}

const FRAME_LIMITS: FrameLimits = { count: 1024, single: 64 * 2 ** 20, total: 256 * 2 ** 20 };

const MAX_HEADER = 128;
const MAX_JSON = 2 ** 20;
const BLOB = /^DKMS2BIN1 ([a-z][a-z-]{0,15}) (0|[1-9]\d{0,9}) (0|[1-9]\d{0,11})$/;
const END = /^DKMS2BIN1 end ([0-9a-f]{64}) 0$/;

/**
 * Reads one framed stream: `for await (const frame of new FrameReader(stdout, {kinds: ['meta', 'module', 'log']}))`.
 * Trust a frame only once the loop has ended, because the digest comes last. Reads no further than the chunk that
 * holds the last line, and never closes the source, which stays its owner's. Throws `transient` for a cut or garbled
 * stream, `module` for one beyond the limits.
 */
export class FrameReader implements AsyncIterable<Frame> {
  readonly #source: AsyncIterable<Buffer | Uint8Array | string>;
  readonly #kinds: ReadonlySet<string>;
  readonly #limits: FrameLimits;

  constructor(
    source: AsyncIterable<Buffer | Uint8Array | string>,
    options: { kinds: readonly string[]; limits?: Partial<FrameLimits> },
  ) {
    this.#source = source;
    this.#kinds = new Set(options.kinds);
    this.#limits = { ...FRAME_LIMITS, ...options.limits };
  }

  /** All frames at once, complete and checked against the digest. */
  async all(): Promise<Frame[]> {
    const frames: Frame[] = [];
    for await (const frame of this) frames.push(frame);
    return frames;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Frame, void, undefined> {
    const input = new Input(this.#source);
    const hash = createHash('sha256');
    let total = 0;
    for (let expected = 0; ; expected++) {
      const line = await input.line(MAX_HEADER);
      const end = END.exec(line);
      if (end) {
        if (end[1] !== hash.digest('hex')) throw garbled('its digest does not match');
        return;
      }
      const [, kind, index, length] = BLOB.exec(line) ?? [];
      if (kind === undefined || !this.#kinds.has(kind)) throw garbled(`unexpected header ${quote(line)}`);
      if (Number(index) !== expected) throw garbled(`blob ${expected} expected, got ${quote(line)}`);
      const size = Number(length);
      total += size;
      if (expected >= this.#limits.count) throw beyond(`more files than the limit of ${this.#limits.count}`);
      if (size > this.#limits.single) throw beyond(`a file of ${size} bytes (limit ${this.#limits.single})`);
      if (total > this.#limits.total) throw beyond(`${total} bytes in all (limit ${this.#limits.total})`);
      const bytes = await input.take(size);
      hash.update(bytes);
      yield { kind, index: expected, bytes };
    }
  }
}

/** A blob's JSON, through a schema: unknown shapes, bad UTF-8 and more than 1 MiB are refused. */
export function frameJson<T>(frame: Frame, schema: ZodType<T>): T {
  if (frame.bytes.length > MAX_JSON) throw beyond(`${frame.bytes.length} bytes of ${frame.kind}`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(frame.bytes));
  } catch (error) {
    throw garbled(`its ${frame.kind} is not JSON (${quote(messageOf(error))})`);
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const where = quote((issue?.path ?? []).map(String).join('.'));
  throw garbled(`its ${frame.kind} is wrong at ${where}: ${quote(issue?.message ?? 'unknown')}`);
}

/** Bytes that arrived and were not read yet. Memory grows with what really arrived, not with what a header claims. */
class Input {
  readonly #source: AsyncIterator<Buffer | Uint8Array | string>;
  #chunks: Buffer[] = [];
  #held = 0;

  constructor(source: AsyncIterable<Buffer | Uint8Array | string>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  async line(max: number): Promise<string> {
    for (let seen = -1; ;) {
      if (this.#held > seen) {
        seen = this.#held;
        const all = this.#joined();
        const newline = all.subarray(0, max + 1).indexOf(0x0a);
        if (newline >= 0) {
          this.#keep(all.subarray(newline + 1));
          return all.toString('latin1', 0, newline);
        }
        if (all.length > max)
          throw garbled(`no header where one is expected: ${quote(all.toString('latin1', 0, 40))}`);
      }
      await this.#pull();
    }
  }

  async take(size: number): Promise<Buffer> {
    while (this.#held < size) await this.#pull();
    const all = this.#joined();
    this.#keep(all.subarray(size));
    return all.subarray(0, size);
  }

  #joined(): Buffer {
    if (this.#chunks.length !== 1) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0] ?? Buffer.alloc(0);
  }

  #keep(rest: Buffer): void {
    this.#chunks = [rest];
    this.#held = rest.length;
  }

  async #pull(): Promise<void> {
    let next: IteratorResult<Buffer | Uint8Array | string>;
    try {
      next = await this.#source.next();
    } catch (error) {
      if (error instanceof Dkms2binError) throw error;
      throw new Dkms2binError('transient', `The connection to the guest broke: ${messageOf(error)}`, {
        cause: error,
      });
    }
    if (next.done) throw garbled('it ends too early');
    const chunk = typeof next.value === 'string' ? Buffer.from(next.value, 'latin1') : next.value;
    this.#chunks.push(Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk));
    this.#held += chunk.length;
  }
}

function quote(text: string): string {
  return `"${text.slice(0, 120).replace(/[^\x20-\x7e]/g, '?')}"`;
}

function garbled(why: string): Dkms2binError {
  return new Dkms2binError('transient', `The guest's answer is unusable: ${why}`);
}

function beyond(what: string): Dkms2binError {
  return new Dkms2binError('module', `The guest sent too much: ${what}`, {
    hint: 'No module needs so much. Look at what its build makes: --debug keeps the VM.',
  });
}
