import { createServer, type Server, type Socket } from 'node:net';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

/** What a guest's compiler asks for; paths of files are relative to the build folder. */
export interface Asked {
  folder?: string;
  tree?: string;
  compiler?: string;
  env?: string[];
  args?: string[];
  /** Content by path. */
  files?: Record<string, string>;
  /** Lines of the listing as they are, in place of those of `files`. */
  listing?: string[];
}

export interface Answer {
  /** Why the host refused; null: it compiled. */
  refused: string | null;
  object: Buffer;
  deps: string;
  said: string;
  /** What the guest is to look at before it believes. */
  unchanged: string[];
  /** Files that the host asked for. */
  fetched: string[];
}

export const TREE = '/var/lib/dkms/x/1/build';
export const ARGS = ['-nostdinc', '-Wp,-MMD,./.x.o.d', '-c', '-o', 'x.o', 'x.c'];

/** The guest's end of the port: speaks as cloud-init/guest/cc-host.c does, and in any other way. */
export class StandInGuest implements Disposable {
  readonly #server: Server;
  #socket: Socket | undefined;
  #received = Buffer.alloc(0);
  #heard: (() => void) | undefined;

  private constructor(server: Server) {
    this.#server = server;
    server.on('connection', (socket) => {
      this.#socket = socket;
      socket.on('data', (chunk) => {
        this.#received = Buffer.concat([this.#received, chunk]);
        this.#heard?.();
      });
      socket.on('error', () => undefined);
    });
  }

  static async listen(path: string): Promise<StandInGuest> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return new StandInGuest(server);
  }

  [Symbol.dispose](): void {
    this.#socket?.destroy();
    this.#server.close();
  }

  send(bytes: Buffer): void {
    this.#socket?.write(bytes);
  }

  static frame(kind: string, session: Buffer, data: Buffer): Buffer {
    const head = Buffer.alloc(5);
    head.write(kind, 0, 'latin1');
    head.writeUInt32BE(data.length, 1);
    return Buffer.concat([head, session, data]);
  }

  async compile(asked: Asked = {}): Promise<Answer> {
    while (!this.#socket) await sleep(1);
    const { folder = TREE, tree = TREE, compiler = '/usr/bin/gcc', env = ['LC_ALL=C'], args = ARGS } = asked;
    const files = Object.entries(asked.files ?? { 'x.c': 'int x;\n' });
    const listing =
      asked.listing ??
      files.map(
        ([path, text], at) =>
          `f ${Buffer.byteLength(text)} 1.000000000 2.00000000${at % 10} ${hash(text)} ${path}`,
      );
    const session = randomBytes(8);
    const put = (kind: string, data: Buffer): void => {
      for (let at = 0; at === 0 || at < data.length; at += 16_384)
        this.send(StandInGuest.frame(kind, session, data.subarray(at, at + 16_384)));
    };
    this.send(Buffer.alloc(16_384 + 13));
    put('C', words([folder, tree, compiler, ...env, '', ...args]));
    put('L', words(listing));
    put('E', Buffer.alloc(0));
    const got: Record<string, Buffer[]> = { R: [], V: [], D: [], S: [], O: [], P: [] };
    const fetched: string[] = [];
    for (;;) {
      const { kind, data } = await this.#next(session);
      if (kind === 'N') {
        for (let at = 0; at < data.length; at += 4) {
          const index = data.readUInt32BE(at);
          const [path = '', text = ''] = files[index] ?? [];
          fetched.push(path);
          const bytes = Buffer.from(text);
          for (let from = 0; from === 0 || from < bytes.length; from += 16_000)
            put('F', Buffer.concat([data.subarray(at, at + 4), bytes.subarray(from, from + 16_000)]));
        }
        put('G', Buffer.alloc(0));
      } else if (kind === 'Z' || kind === 'R') {
        const all = (of: string): Buffer => Buffer.concat(got[of] ?? []);
        return {
          refused: kind === 'R' ? data.toString() : null,
          ...{ object: all('O'), deps: all('D').toString(), said: all('S').toString(), fetched },
          unchanged: all('V')
            .toString()
            .split('\0')
            .filter((path) => path !== ''),
        };
      } else got[kind]?.push(data);
    }
  }

  async #next(session: Buffer): Promise<{ kind: string; data: Buffer }> {
    for (;;) {
      const size = this.#received.length < 13 ? Infinity : this.#received.readUInt32BE(1);
      if (this.#received.length >= 13 + size) {
        const kind = this.#received.toString('latin1', 0, 1);
        const mine = this.#received.subarray(5, 13).equals(session);
        const data = Buffer.from(this.#received.subarray(13, 13 + size));
        this.#received = this.#received.subarray(13 + size);
        if (mine) return { kind, data };
        continue;
      }
      await new Promise<void>((resolve) => (this.#heard = resolve));
    }
  }
}

const words = (all: readonly string[]): Buffer => Buffer.from(all.map((word) => `${word}\0`).join(''));
const hash = (text: string): number =>
  [...text].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 1e9, 7);
