import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { readdir, rm } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { readArguments, readDependencies, Refusal, type Compilation } from './arguments.js';
import { Places } from './places.js';
import { CompilerSandbox } from './run-compiler.js';
import { Tree } from './tree.js';

/** What became of a guest's compilations. */
export interface CompileCount {
  /** Compiled on the host. */
  host: number;
  /** Left to the guest, by reason. */
  guest: Record<string, number>;
}

export interface CompileService extends AsyncDisposable {
  count: CompileCount;
}

const HEAD = 13;
const SENT = 64 * 1024;
const RECEIVED = 16 * 1024;
const MAX_REQUEST = 256 * 1024;
const MAX_LISTING = 8 * 2 ** 20;
const MAX_REASONS = 50;
const PASSED =
  /^(?:SOURCE_DATE_EPOCH|LC_ALL|LC_MESSAGES|LC_CTYPE|LANG|LANGUAGE|GCC_COLORS|COLUMNS)=([\w.@:;,= -]{0,200})$/;
/** Packages have links to their documents, which no compiler looks for. */
const DOCUMENT =
  /^(?:README|COPYING|LICEN[CS]E|NEWS|AUTHORS|INSTALL|TODO|Change[Ll]og|CHANGES)|\.(?:gz|txt|md|html|pdf)$/;
const TREE = /^\/var\/lib\/dkms\/[^/]+\/[^/]+\/build$/;

/**
 * Compiles for the guest at `socket`, the host's end of its port for that: see cloud-init/guest/cc-host.c, which tells the messages.
 * `root` has the compiler and the headers of the guest's layer; `dir` is this cell's own. Throws fault `host` where there can be
 * no sandbox.
 */
export async function serveCompiler(
  { socket, root, dir }: { socket: string; root: string; dir: string },
  signal: AbortSignal,
): Promise<CompileService> {
  const sandbox = await CompilerSandbox.create(root, dir);
  const stop = new AbortController();
  const service = new Service({ sandbox, root, signal: AbortSignal.any([signal, stop.signal]) });
  const connection = connect(socket);
  await once(connection, 'connect');
  connection.on('error', () => connection.destroy());
  connection.on('data', (chunk) => service.receive(chunk, connection));
  return {
    count: service.count,
    [Symbol.asyncDispose]: async () => {
      stop.abort();
      connection.destroy();
      await service.idle();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** One request of the guest's as far as it has come. */
interface Conversation {
  session: Buffer;
  request: Buffer[];
  listing: Buffer[];
  size: number;
  /** Null: the listing has not ended. */
  order: Order | null;
}

type Wanted = Map<number, { path: string; size: number; chunks: Buffer[]; got: number }>;

/** A request that has come whole. */
interface Order extends Parsed {
  content: Tree;
  /** The files asked for. */
  wanted: Wanted;
}

interface Parsed {
  compilation: Compilation;
  folder: string;
  tree: string;
  command: [string, ...string[]];
  env: Record<string, string>;
}

class Service {
  readonly count: CompileCount = { host: 0, guest: {} };
  readonly #sandbox: CompilerSandbox;
  readonly #signal: AbortSignal;
  readonly #root: string;
  readonly #places: Places;
  /** Of one build folder; another one begins anew. */
  #tree: { path: string; content: Tree } | null = null;
  #received: Buffer = Buffer.alloc(0);
  #now: Conversation | null = null;
  /** Messages are worked on one after the other. */
  #work: Promise<void> = Promise.resolve();
  #always: string[] | null = null;
  #folders: string[] | null = null;

  constructor({ sandbox, root, signal }: { sandbox: CompilerSandbox; root: string; signal: AbortSignal }) {
    this.#sandbox = sandbox;
    this.#root = root;
    this.#signal = signal;
    this.#places = new Places(root);
  }

  idle(): Promise<void> {
    return this.#work;
  }

  receive(chunk: Buffer, to: Socket): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    for (;;) {
      let start = 0;
      while (start < this.#received.length && this.#received[start] === 0) start++;
      this.#received = this.#received.subarray(start);
      if (this.#received.length < HEAD) return;
      const size = this.#received.readUInt32BE(1);
      if (size > RECEIVED) {
        // Nothing of ours: the next conversation begins after its zeros.
        const zeros = this.#received.indexOf(Buffer.alloc(HEAD));
        this.#received = this.#received.subarray(zeros < 0 ? 1 - HEAD : zeros);
        if (zeros < 0) return;
        continue;
      }
      if (this.#received.length < HEAD + size) return;
      const kind = String.fromCharCode(this.#received[0] ?? 0);
      const session = Buffer.from(this.#received.subarray(5, HEAD));
      const data = Buffer.from(this.#received.subarray(HEAD, HEAD + size));
      this.#received = this.#received.subarray(HEAD + size);
      to.pause();
      this.#work = this.#work
        .then(() => this.#handle(kind, session, data, to))
        .catch((error: unknown) => this.#refuse(error, session, to))
        .then(() => void to.resume());
    }
  }

  #refuse(error: unknown, session: Buffer, to: Socket): void {
    this.#now = null;
    if (this.#signal.aborted) return;
    const known = error instanceof Refusal ? error.message : 'the compiler did not end well';
    const reason =
      known in this.count.guest || Object.keys(this.count.guest).length < MAX_REASONS ? known : 'other';
    this.count.guest[reason] = (this.count.guest[reason] ?? 0) + 1;
    send(to, session, 'R', Buffer.from(known));
  }

  async #handle(kind: string, session: Buffer, data: Buffer, to: Socket): Promise<void> {
    if (kind === 'C' && !this.#now?.session.equals(session))
      this.#now = { session, request: [], listing: [], size: 0, order: null };
    const now = this.#now;
    // Of a conversation that was given up.
    if (!now?.session.equals(session)) return;
    now.size += data.length;
    if (now.order === null) await this.#gather(kind, now, data, to);
    else if (kind === 'F') takeFile(now.order.wanted, data);
    else if (kind === 'G') await this.#compile(now.order, session, to);
    else throw outOfPlace();
  }

  /** Request and listing, until the listing has ended. */
  async #gather(kind: string, now: Conversation, data: Buffer, to: Socket): Promise<void> {
    if (kind === 'C' && now.size <= MAX_REQUEST) now.request.push(data);
    else if (kind === 'L' && now.size <= MAX_LISTING) now.listing.push(data);
    else if (kind === 'E') await this.#ask(now, to);
    else throw outOfPlace();
  }

  /** Asks for the files that are not here. */
  async #ask(now: Conversation, to: Socket): Promise<void> {
    const parsed = parse(Buffer.concat(now.request));
    const { tree } = parsed;
    if (this.#tree?.path !== tree) this.#tree = { path: tree, content: new Tree(this.#sandbox.tree) };
    const { content } = this.#tree;
    const wanted = await content.update(Buffer.concat(now.listing));
    const files: Wanted = new Map(
      wanted.map(({ index, ...file }) => [index, { ...file, chunks: [], got: 0 }]),
    );
    now.order = { ...parsed, content, wanted: files };
    if (wanted.length === 0) return this.#compile(now.order, now.session, to);
    const asked = Buffer.alloc(4 * wanted.length);
    for (const [at, { index }] of wanted.entries()) asked.writeUInt32BE(index, 4 * at);
    for (let at = 0; at < asked.length; at += SENT) send(to, now.session, 'N', asked.subarray(at, at + SENT));
  }

  async #compile(order: Order, session: Buffer, to: Socket): Promise<void> {
    const { content, wanted } = order;
    for (const { path, size, chunks, got } of wanted.values()) {
      if (got !== size) throw new Refusal('half a file');
      await content.write(path, Buffer.concat(chunks));
    }
    content.complete();
    const { object, deps, said, read } = await this.#make(order);
    const answer = [
      ['V', Buffer.from([...read, ''].join('\0'))],
      ['P', Buffer.from(order.compilation.deps)],
      ['D', deps],
      ['S', said],
      ['O', object],
    ] as const;
    for (const [kind, bytes] of answer)
      for (let at = 0; at < bytes.length; at += SENT) send(to, session, kind, bytes.subarray(at, at + SENT));
    send(to, session, 'Z', Buffer.alloc(0));
    this.#folders = [];
    this.count.host++;
    this.#now = null;
  }

  /** Runs the compiler. `read` is what it read, or looked for, outside the build folder. */
  async #make({ content, compilation, folder, tree, command, env }: Order): Promise<{
    object: Buffer;
    deps: Buffer;
    said: Buffer;
    read: Set<string>;
  }> {
    const outputs = [compilation.object, compilation.deps].map((path) => {
      if (!path.startsWith(`${tree}/`)) throw new Refusal('it writes outside its folder');
      return path.slice(tree.length + 1);
    });
    for (const path of outputs) await content.placeFor(path);
    const read = new Set<string>();
    const walk = (path: string): Promise<'file' | 'folder' | null> =>
      this.#places.walk(path, { path: tree, find: (relative) => content.find(relative) }, read);
    for (const path of content.links())
      if (!DOCUMENT.test(posix.basename(path))) await walk(`${tree}/${path}`);
    for (const path of compilation.folders) await walk(path);
    const made = await this.#sandbox.run({ folder, command, env, tree, outputs }, this.#signal);
    if (made.stdout !== '' || made.stderr.includes('\ufffd'))
      throw new Refusal('it says what cannot be passed on');
    const [object = Buffer.alloc(0), deps = Buffer.alloc(0)] = made.outputs;
    if (object.length === 0) throw new Refusal('no object');
    for (const path of readDependencies(deps.toString('utf8'))) {
      const type = await walk(path.startsWith('/') ? path : `${folder}/${path}`);
      if (type !== 'file') throw new Refusal(`it read ${path}, which is no file`);
    }
    for (const path of await this.#besides(compilation.silent)) read.add(path);
    // The end of the last line is cut off on the way.
    const said = Buffer.from(made.stderr === '' ? '' : `${made.stderr}\n`);
    return { object, deps, said, read };
  }

  /** What a compiler reads that no dependency file tells: its own files, headers of the folders `silent`, and once all folders. */
  async #besides(silent: readonly string[]): Promise<string[]> {
    this.#always ??= await this.#compilerFiles();
    this.#folders ??= await this.#places.folders();
    const headers = await Promise.all(silent.map((folder) => this.#below(folder)));
    return [...this.#always, ...this.#folders, ...headers.flat().map(({ path }) => path)];
  }

  /** Everything below a folder of the layer's. */
  async #below(folder: string): Promise<{ path: string; isFolder: boolean }[]> {
    const options = { withFileTypes: true, recursive: true } as const;
    const entries = await readdir(join(this.#root, folder), options);
    return entries.map((entry) => ({
      path: posix.join(entry.parentPath.slice(this.#root.length), entry.name),
      isFolder: entry.isDirectory(),
    }));
  }

  async #compilerFiles(): Promise<string[]> {
    const folders = ['/usr/bin', '/usr/lib64', '/usr/lib', '/usr/libexec/gcc'];
    const entries = await Promise.all(folders.map((folder) => this.#below(folder).catch(() => [])));
    return entries
      .flat()
      .flatMap(({ path, isFolder }) => (isFolder ? [] : [path]))
      .filter(
        (path) => !/^\/usr\/lib\/(?:gcc\/.*\/include|gcc\/.*\/plugin|linux-kbuild-|modules)/.test(path),
      );
  }
}

const outOfPlace = (): Refusal => new Refusal('a message out of its place');

function takeFile(wanted: Wanted, data: Buffer): void {
  const file = data.length >= 4 ? wanted.get(data.readUInt32BE(0)) : undefined;
  if (!file || file.got + data.length - 4 > file.size) throw new Refusal('a file that nobody asked for');
  file.chunks.push(data.subarray(4));
  file.got += data.length - 4;
}

/** Working folder, build folder, compiler, environment, an empty word, arguments; NUL after each. */
function parse(request: Buffer): Parsed {
  const words = request.toString('utf8').split('\0');
  if (words.pop() !== '' || words.some((word) => word.includes('\ufffd')))
    throw new Refusal('half a request');
  const [folder = '', tree = '', compiler = '', ...rest] = words;
  const end = rest.indexOf('');
  if (end < 0 || !folder.startsWith('/') || !TREE.test(tree) || /\/\.{1,2}(?:\/|$)/.test(tree))
    throw new Refusal('half a request');
  if (!/^\/usr\/bin\/[A-Za-z0-9_.+-]*gcc(?:-[0-9.]+)?$/.test(compiler))
    throw new Refusal(`the compiler ${compiler}`);
  const env: Record<string, string> = {};
  for (const word of rest.slice(0, end)) {
    if (!PASSED.test(word)) throw new Refusal('a variable that is not passed on');
    env[word.slice(0, word.indexOf('='))] = word.slice(word.indexOf('=') + 1);
  }
  const args = rest.slice(end + 1);
  return { compilation: readArguments(folder, args), folder, tree, command: [compiler, ...args], env };
}

function send(to: Socket, session: Buffer, kind: string, data: Buffer): void {
  const head = Buffer.alloc(HEAD);
  head.write(kind, 0, 'latin1');
  head.writeUInt32BE(data.length, 1);
  session.copy(head, 5);
  to.write(Buffer.concat([head, data]));
}
