import { EventEmitter } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { Dkms2binError } from '../model/errors.js';

/** One line from QEMU: the answer to the command of that id, or an event. */
const Reply = z.object({
  id: z.number().optional(),
  return: z.unknown(),
  error: z.object({ desc: z.string() }).optional(),
  event: z.string().optional(),
  data: z.record(z.string(), z.unknown()).default({}),
});

/** A QMP connection over QEMU's unix socket. Emits `event` with (name, data). */
export class Qmp extends EventEmitter {
  readonly #socket: Socket;
  readonly #pending = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();
  #next = 1;

  private constructor(socket: Socket) {
    super();
    this.#socket = socket;
    // readline passes its input's errors on; `lost` below answers them.
    createInterface({ input: socket })
      .on('line', (line) => this.#onLine(line))
      .on('error', () => undefined);
    const lost = (): void => {
      for (const { reject } of this.#pending.values()) {
        reject(new Dkms2binError('transient', 'QEMU closed its control socket'));
      }
      this.#pending.clear();
    };
    socket.on('error', lost);
    socket.on('close', lost);
  }

  /** Connects within `deadlineMs`: QEMU makes the socket a moment after its start. */
  static async connect(path: string, deadlineMs: number, signal?: AbortSignal): Promise<Qmp> {
    const end = Date.now() + deadlineMs;
    for (;;) {
      signal?.throwIfAborted();
      try {
        const socket = await new Promise<Socket>((resolve, reject) => {
          const s = createConnection(path, () => resolve(s));
          s.once('error', reject);
        });
        const qmp = new Qmp(socket);
        await qmp.command('qmp_capabilities');
        return qmp;
      } catch (error) {
        if (Date.now() > end) {
          throw new Dkms2binError('host', `QEMU did not open its control socket ${path}`, { cause: error });
        }
        await sleep(20);
      }
    }
  }

  /** Runs one QMP command; rejects with QEMU's own description. */
  command(execute: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#socket.write(JSON.stringify({ execute, arguments: args, id }) + '\n');
    });
  }

  /** A human monitor command, for the few things that QMP has no word for. */
  async monitor(line: string): Promise<string> {
    return String(await this.command('human-monitor-command', { 'command-line': line }));
  }

  close(): void {
    this.#socket.destroy();
  }

  #onLine(line: string): void {
    let reply: z.infer<typeof Reply>;
    try {
      reply = Reply.parse(JSON.parse(line));
    } catch {
      return;
    }
    if (reply.event !== undefined) {
      this.emit('event', reply.event, reply.data);
      return;
    }
    const waiting = reply.id === undefined ? undefined : this.#pending.get(reply.id);
    if (!waiting || reply.id === undefined) return;
    this.#pending.delete(reply.id);
    if (reply.error) waiting.reject(new Dkms2binError('host', `QEMU refused: ${reply.error.desc}`));
    else waiting.resolve(reply.return);
  }
}
