import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { endOf, type Command, type Ended, type ExecIo, type Transport } from './transport.js';

/** A message is a kind, a length and that many bytes; see cloud-init/guest/agent.py for the kinds. */
const HEADER = 5;
/** Bytes in a message from the agent. */
const MAX_RECEIVED = 64 * 1024;
/** Bytes in a message to the agent. */
const MAX_SENT = 16 * 1024;
/** Bytes of input on their way to a command that has not taken them: the agent always reads on, so it is the host that waits. */
const WINDOW = 256 * 1024;
/** The agent may be started anew just after it has read our greeting. */
const GREET_AGAIN_MS = 5000;

const END = z.union([z.object({ code: z.number().int() }), z.object({ signal: z.number().int() })]);
const AWAKE = z.object({ nonce: z.string(), machineId: z.string(), bootId: z.string(), kernel: z.string() });

export interface ChannelOptions {
  deadlineMs: number;
  /** Races a wait against the VM's death. */
  alive: <T>(work: Promise<T>) => Promise<T>;
  signal?: AbortSignal;
  /** For tests. */
  greetAgainMs?: number;
}

type Handler = (kind: string, data: Buffer) => void;

/** Root commands through the guest agent on a virtio-serial port. What arrives is the guest's word: sizes are capped. */
export class Channel implements Transport {
  #buffer: Buffer = Buffer.alloc(0);
  #broken: Dkms2binError | null = null;
  #handler: Handler | null = null;
  #fail: ((error: Error) => void) | null = null;
  /** How much more input may be sent, and who waits for more of it. */
  #room = 0;
  #onRoom: (() => void) | null = null;

  private constructor(
    private readonly socket: Socket,
    private readonly signal: AbortSignal | undefined,
  ) {
    socket.on('close', () => this.#break('The control channel to the guest closed'));
    socket.on('error', (error) => this.#break(`The control channel to the guest broke: ${error.message}`));
  }

  /** Connects to QEMU's socket and waits until the agent answers this session's nonce. */
  static async connect(path: string, options: ChannelOptions): Promise<Channel> {
    const { deadlineMs, alive, signal, greetAgainMs = GREET_AGAIN_MS } = options;
    const socket = await new Promise<Socket>((resolve, reject) => {
      const s = createConnection(path, () => resolve(s));
      s.once('error', (cause) =>
        reject(
          new Dkms2binError('host', `QEMU's socket ${path} cannot be reached: ${cause.message}`, { cause }),
        ),
      );
    });
    const channel = new Channel(socket, signal);
    const nonce = Buffer.from(randomBytes(16).toString('hex'));
    const hello = message('h', nonce);
    const answered = new Promise<void>((resolve, reject) => {
      channel.#fail = reject;
      // What an earlier session left in the port comes first, and may begin in the middle of a message.
      let seen: Buffer = Buffer.alloc(0);
      const onData = (chunk: Buffer): void => {
        seen = Buffer.concat([seen, chunk]);
        const at = seen.indexOf(hello);
        if (at < 0) {
          seen = seen.subarray(Math.max(0, seen.length - hello.length));
          return;
        }
        socket.off('data', onData);
        socket.on('data', (data: Buffer) => channel.#onData(data));
        channel.#onData(seen.subarray(at + hello.length));
        resolve();
      };
      socket.on('data', onData);
    });
    answered.catch(() => undefined);
    const over = new AbortController();
    let again: NodeJS.Timeout | undefined;
    try {
      // A message that an earlier connection left unfinished swallows zeros in place of the greeting.
      socket.write(Buffer.concat([Buffer.alloc(HEADER + MAX_SENT), hello]));
      again = setInterval(() => socket.write(hello), greetAgainMs);
      const late = sleep(deadlineMs, undefined, { signal: over.signal }).then(() => {
        throw new Dkms2binError(
          'transient',
          `The guest's agent did not answer within ${deadlineMs / 1000} s`,
          {
            hint: 'Read the console log of the run.',
          },
        );
      });
      late.catch(() => undefined);
      await alive(Promise.race([answered, late, aborted(signal, over.signal)]));
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearInterval(again);
      over.abort();
      channel.#fail = null;
    }
    return channel;
  }

  /**
   * Tells a machine that was cloned from a saved one who it is and what time it is: sets the clock (seconds since 1970),
   * credits entropy (base64), writes the machine id. Rejects when the answer is not this call's, or does not come in time.
   */
  async wake(
    told: { time: number; entropy: string; machineId: string; nonce: string },
    deadlineMs = 30_000,
  ): Promise<void> {
    const awake = await this.#session<z.infer<typeof AWAKE>>({ ms: deadlineMs }, (resolve, reject) => {
      this.#handler = (kind, data) => {
        if (kind !== 'w') return;
        const parsed = AWAKE.safeParse(json(data));
        if (parsed.success) resolve(parsed.data);
        else reject(this.#break("The guest's control channel broke: its answer makes no sense"));
      };
      void this.#send('w', Buffer.from(JSON.stringify(told)));
    });
    if (awake === 'timeout' || awake.nonce !== told.nonce) {
      throw new Dkms2binError('transient', 'The guest did not wake up');
    }
  }

  async exec(command: Command, io: ExecIo): Promise<Ended> {
    const over = new AbortController();
    let whole = false;
    try {
      const ended = await this.#session<Ended>({ ms: io.timeoutMs, giveUp: io.giveUp }, (resolve, reject) => {
        this.#handler = (kind, data) => {
          if (kind === 'o' || kind === 'e') {
            const to = kind === 'o' ? io.stdout : io.stderr;
            if (!to.write(data) && !this.socket.isPaused()) {
              this.socket.pause();
              const go = (): void => {
                to.off('drain', go).off('close', go);
                this.socket.resume();
              };
              to.on('drain', go).on('close', go);
            }
          } else if (kind === 'c') {
            const parsed = END.safeParse(json(data));
            if (!parsed.success)
              reject(this.#break("The guest's control channel broke: its answer makes no sense"));
            else resolve({ code: 'code' in parsed.data ? parsed.data.code : null, timedOut: false });
          } else if (kind === 'a' && data.length === 4) {
            this.#room = Math.min(WINDOW, this.#room + data.readUInt32BE());
            this.#onRoom?.();
            io.onInput?.();
          }
        };
        void this.#send('x', Buffer.from(JSON.stringify(command)));
        this.#room = WINDOW;
        this.#feed(io.input, over.signal).catch((cause: unknown) => {
          const message = `What is sent to the guest cannot be read: ${messageOf(cause)}`;
          reject(
            this.#break(
              cause instanceof Dkms2binError ? cause : new Dkms2binError('host', message, { cause }),
            ),
          );
        });
      });
      over.abort();
      whole = ended !== 'timeout';
      if (ended !== 'timeout') return ended;
      // Its end has to be out of the way before the next command begins.
      this.socket.resume();
      const killed = await this.#session<void>({ ms: 10_000 }, (resolve) => {
        this.#handler = (kind) => {
          if (kind === 'c') resolve();
        };
        void this.#send('k', Buffer.alloc(0));
      });
      if (killed === 'timeout') this.#break('The guest did not end a command that had run out of time');
      return { code: null, timedOut: true };
    } finally {
      over.abort();
      this.#onRoom?.();
      const taken = Promise.all([endOf(io.stdout), endOf(io.stderr)]);
      // Who reads the output of a command that failed may have given up.
      await (whole ? taken : Promise.race([taken, sleep(1000, undefined, { ref: false })]));
    }
  }

  close(): Promise<void> {
    this.#broken ??= new Dkms2binError('transient', 'The control channel was closed');
    this.socket.destroy();
    return Promise.resolve();
  }

  /** Sends a command its input as fast as it takes it, until `over`. */
  async #feed(input: ExecIo['input'], over: AbortSignal): Promise<void> {
    for await (const chunk of chunksOf(input)) {
      for (let at = 0; at < chunk.length; at += MAX_SENT) {
        const piece = chunk.subarray(at, at + MAX_SENT);
        while (this.#room < piece.length && !over.aborted) {
          await new Promise<void>((resolve) => (this.#onRoom = resolve));
        }
        if (over.aborted) return;
        this.#room -= piece.length;
        await this.#send('i', piece);
      }
    }
    if (!over.aborted) await this.#send('i', Buffer.alloc(0));
  }

  /** Resolves when the socket takes more. */
  #send(kind: string, data: Buffer): Promise<void> | void {
    if (this.#broken) throw this.#broken;
    if (data.length > MAX_SENT) throw new Error(`a message of ${data.length} bytes to the guest`);
    if (this.socket.write(message(kind, data))) return;
    return new Promise((resolve) => {
      const go = (): void => {
        this.socket.off('drain', go).off('close', go);
        resolve();
      };
      this.socket.on('drain', go).on('close', go);
    });
  }

  async #session<T>(
    { ms, giveUp }: { ms: number; giveUp?: AbortSignal | undefined },
    begin: (resolve: (value: T) => void, reject: (error: Error) => void) => void,
  ): Promise<T | 'timeout'> {
    if (this.#broken) throw this.#broken;
    if (this.#handler) throw new Error('a command is running in this channel already');
    const over = new AbortController();
    try {
      const work = new Promise<T>((resolve, reject) => {
        this.#fail = reject;
        begin(resolve, reject);
      });
      const late = sleep(ms, 'timeout' as const, {
        signal: giveUp ? AbortSignal.any([over.signal, giveUp]) : over.signal,
      }).catch(() => 'timeout' as const);
      return await Promise.race([work, late, aborted(this.signal, over.signal)]);
    } finally {
      over.abort();
      this.#handler = null;
      this.#fail = null;
    }
  }

  #onData(chunk: Buffer): void {
    this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
    while (this.#buffer.length >= HEADER) {
      const size = this.#buffer.readUInt32BE(1);
      if (size > MAX_RECEIVED) {
        this.#break(`The guest's control channel broke: a message of ${size} bytes`);
        return;
      }
      if (this.#buffer.length < HEADER + size) return;
      const kind = this.#buffer.toString('latin1', 0, 1);
      const data = this.#buffer.subarray(HEADER, HEADER + size);
      this.#buffer = this.#buffer.subarray(HEADER + size);
      // Empty messages carry nothing, and a flood of them must cost nothing.
      if (size > 0) this.#handler?.(kind, data);
    }
  }

  /** Ends the channel for good, for the first reason given. */
  #break(why: string | Dkms2binError): Dkms2binError {
    this.#broken ??= typeof why === 'string' ? new Dkms2binError('transient', why) : why;
    this.socket.destroy();
    this.#fail?.(this.#broken);
    return this.#broken;
  }
}

function chunksOf(input: ExecIo['input']): Iterable<Buffer> | AsyncIterable<Buffer> {
  if (input === undefined) return [];
  if (typeof input === 'object' && 'file' in input) {
    return createReadStream(input.file, { highWaterMark: 256 * 1024 }) as AsyncIterable<Buffer>;
  }
  return [Buffer.from(input)];
}

function message(kind: string, data: Buffer): Buffer {
  const header = Buffer.alloc(HEADER);
  header.write(kind, 0, 'latin1');
  header.writeUInt32BE(data.length, 1);
  return Buffer.concat([header, data]);
}

function json(data: Buffer): unknown {
  try {
    return JSON.parse(data.toString('utf8'));
  } catch {
    return null;
  }
}

/** Rejects when `signal` aborts; settles quietly when `over` does. */
function aborted(signal: AbortSignal | undefined, over: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const stop = (): void => reject(new Dkms2binError('interrupted', 'Interrupted'));
    if (signal?.aborted) stop();
    signal?.addEventListener('abort', stop, { once: true, signal: over });
  });
}
