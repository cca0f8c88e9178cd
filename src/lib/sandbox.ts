import { readFileSync } from 'node:fs';
import { chown, lstat, readFile, readlink, realpath, stat, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { HOST_ARCH, type Arch } from '../model/cell.js';
import { Dkms2binError } from '../model/errors.js';
import { run, runBytes, runChunks, type ExecResult, type RunOptions } from './exec.js';
import { PACKAGE_ROOT } from './paths.js';

let root: boolean | undefined;

/**
 * Whether the user is root of ids that can be given away. Root of a user namespace with a few ids, as of a rootless
 * container, is an ordinary user outside, and counts as one.
 */
export function isRoot(): boolean {
  return (root ??= process.getuid?.() === 0 && hasAllIds());
}

function hasAllIds(): boolean {
  const map = readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/).map(Number);
  // One line, from 0, as the host's own namespace has it.
  return map.length === 3 && map[0] === 0 && (map[2] ?? 0) > ROOT_IDS + 2 * COUNT;
}

/** What a sandbox holds beside the host's programs; paths are the same inside. What does not exist is left out. */
export interface Contents {
  readable: readonly string[];
  writable: readonly string[];
  /** Device nodes beside null, zero, full, random, urandom, tty. */
  devices?: readonly string[];
  /** Whether it is in the host's network. Else it has none. */
  network: boolean;
}

/** As `/bin` of a system whose `/usr` is merged, which is what else a program needs to start. */
const TOP = ['bin', 'sbin', 'lib', 'lib32', 'libx32', 'lib64'];
/** Of /etc: what programs look up, and nothing that is secret. */
const ETC = ['alternatives', 'ld.so.cache', 'ld.so.conf', 'ld.so.conf.d', 'localtime', 'mke2fs.conf'];
const ETC_NETWORK = ['hosts', 'resolv.conf', 'ssl/certs', 'ssl/openssl.cnf', 'gai.conf'];

/**
 * bubblewrap's arguments: new mount, PID, IPC, UTS and cgroup namespaces, and with them a new root that holds /usr and
 * `contents`. It ends with whoever started it.
 */
async function bwrapArgs(contents: Contents): Promise<string[]> {
  const { devices = [], network } = contents;
  const args = ['--unshare-pid', '--unshare-ipc', '--unshare-uts', '--unshare-cgroup-try'];
  // The program is the first process itself: what it took of the processors is then told to whoever waits for it.
  args.push(
    '--as-pid-1',
    '--die-with-parent',
    ...(network ? [] : ['--unshare-net']),
    '--ro-bind',
    '/usr',
    '/usr',
  );
  for (const name of TOP) {
    const info = await lstat(`/${name}`).catch(() => null);
    if (info?.isSymbolicLink()) args.push('--symlink', await readlink(`/${name}`), `/${name}`);
    else if (info) args.push('--ro-bind', `/${name}`, `/${name}`);
  }
  args.push('--proc', '/proc', '--dev', '/dev', '--perms', '1777', '--tmpfs', '/tmp');
  args.push('--perms', '0700', '--dir', '/root', '--perms', '0755', '--dir', '/run');
  const own = join(PACKAGE_ROOT, 'cloud-init', 'sandbox', 'etc');
  const binds: [option: string, from: string, to: string][] = [
    ...['passwd', 'group', 'nsswitch.conf'].map(
      (name) => ['--ro-bind', join(own, name), `/etc/${name}`] as const,
    ),
    ...[...ETC, ...(network ? ETC_NETWORK : [])].map(
      (name) => ['--ro-bind', `/etc/${name}`, `/etc/${name}`] as const,
    ),
    ...contents.readable.map((path) => ['--ro-bind', path, path] as const),
    ...contents.writable.map((path) => ['--bind', path, path] as const),
    ...devices.map((path) => ['--dev-bind', path, path] as const),
  ].map((each) => [...each]);
  const made = new Set(['/', '/usr', '/dev', '/tmp', '/proc', '/run', '/root']);
  for (const [option, from, to] of binds) {
    // A link is followed here: what it leads to need not be inside.
    const source = await realpath(from).catch(() => null);
    if (source === null || (to.startsWith('/usr/') && option === '--ro-bind')) continue;
    args.push(...foldersOf(dirname(to), made), option, source, to);
  }
  return [...args, '--chdir', '/'];
}

/** By itself bubblewrap makes folders on the way that only its own user may enter. */
function foldersOf(folder: string, made: Set<string>): string[] {
  if (made.has(folder)) return [];
  const above = foldersOf(dirname(folder), made);
  made.add(folder);
  return [...above, '--perms', '0755', '--dir', folder];
}

/** Its first folder is for what stands before a program in a root folder. */
const PATH = '/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Ids of nobody on this host. */
interface Ids {
  /** As the host, or for an ordinary user the namespace of all ids that are theirs, numbers them. */
  first: number;
  count: number;
}

/** ids of root's namespaces begin here, in what systemd leaves to containers; as many again are for VMs. */
const ROOT_IDS = 0x64_6b_00_00;
const COUNT = 65_536;

interface Granted extends Ids {
  name: string;
}

/** What /etc/subuid or /etc/subgid grants to whom. */
async function granted(file: string): Promise<Granted[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.split('\n').flatMap((line) => {
    const [, name = '', first, count] = /^([^:#]+):(\d+):(\d+)$/.exec(line.trim()) ?? [];
    return first === undefined ? [] : [{ name, first: Number(first), count: Number(count) }];
  });
}

/** A block of twice COUNT ids that nobody was granted. Its second half is for VMs. */
async function rootBlock(): Promise<number> {
  const taken = [...(await granted('/etc/subuid')), ...(await granted('/etc/subgid'))];
  let first = ROOT_IDS;
  while (taken.some((each) => each.first < first + 2 * COUNT && first < each.first + each.count))
    first += 2 * COUNT;
  return first;
}

/** A uid, and gid, for one QEMU that root starts: of nobody, and most likely of no other VM. */
export const idOfVm = async (): Promise<number> =>
  (await rootBlock()) + COUNT + Math.floor(Math.random() * COUNT);

/** The ids of the namespaces in which packages' scripts run. Throws fault `host` for a user who was granted none. */
async function subordinateIds(): Promise<Ids> {
  if (isRoot()) return { first: await rootBlock(), count: COUNT };
  const { username, uid } = userInfo();
  const counts: number[] = [];
  for (const file of ['/etc/subuid', '/etc/subgid']) {
    const mine = (await granted(file)).find(({ name }) => name === username || name === String(uid));
    if (!mine) {
      throw new Dkms2binError('host', `${username} has no range of ids in ${file}`, {
        hint: `Give one: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${username}`,
      });
    }
    counts.push(mine.count);
  }
  // 0 is the user's own, in place of one of the granted ones that follow.
  return { first: 1, count: Math.min(...counts, COUNT) - 1 };
}

async function ownFirst(): Promise<number> {
  const { username, uid } = userInfo();
  return (
    (await granted('/etc/subuid')).find(({ name }) => name === username || name === String(uid))?.first ?? 0
  );
}

/** Puts an ordinary user into a namespace of all ids that are theirs; there they may mount, and hand files over. */
const asOwnRoot = (): string[] =>
  isRoot() ? [] : ['unshare', '--user', '--map-root-user', '--map-auto', '--'];

export interface NativeSandbox {
  /** What to put before a command: in there it is root, of ids that are nobody's on the host. */
  command: [string, ...string[]];
  /** Hands a file or folder of the sandbox's writable ones over to that root. */
  handOver: (path: string) => Promise<void>;
  /** The ids of that root's namespace on the host, for people. */
  ids: string;
}

/**
 * Where programs of a distro's packages run on the host: user, mount, PID, IPC and UTS namespaces, a root of its own with
 * `contents` and no file of the host's but its programs. Programs of `arch` run, by qemu-user when it is not the host's.
 * `scratch` is a folder that lives as long. Throws fault `host` where that does not work.
 */
export async function nativeSandbox(
  { arch, scratch, ...contents }: Contents & { arch: Arch; scratch: string },
  signal?: AbortSignal,
): Promise<NativeSandbox> {
  const { first, count } = await subordinateIds();
  const { uid, gid } = { uid: first, gid: first };
  const table = join(scratch, 'ids');
  await writeFile(table, `root:${first}:${count}\n`);
  const map = `${first},0,${count}`;
  const layer = join(PACKAGE_ROOT, 'cloud-init', 'layer');
  const binfmt = '/proc/sys/fs/binfmt_misc';
  const command: [string, ...string[]] = [
    ...(asOwnRoot() as [string]),
    'bwrap',
    ...(await bwrapArgs({ ...contents, readable: [layer, ...contents.readable] })),
    // newuidmap reads there what it may map.
    ...['--ro-bind', table, '/etc/subuid', '--ro-bind', table, '/etc/subgid'],
    ...(arch === HOST_ARCH ? [] : ['--ro-bind', binfmt, binfmt]),
    ...['--setenv', 'HOME', '/root', '--setenv', 'PATH', PATH, '--cap-add', 'ALL'],
    // The namespace that mounted all this keeps it: root of the next one cannot undo it.
    ...['--', 'unshare', '--user', '--mount', `--map-users=${map}`, `--map-groups=${map}`],
    ...['--setuid', '0', '--setgid', '0', '--'],
    ...(arch === HOST_ARCH ? [] : ['bash', join(layer, 'emulate.sh'), arch]),
  ];
  const [file, ...args] = command;
  await run(file, [...args, 'true'], signal ? { cancelSignal: signal } : {});
  const handOver = async (path: string): Promise<void> => {
    if (isRoot()) await chown(path, uid, gid);
    else await run('unshare', [...asOwnRoot().slice(1), 'chown', `${uid}:${gid}`, path]);
  };
  // An ordinary user's are numbered by the namespace of all that are theirs.
  const from = isRoot() ? first : await ownFirst();
  return { command, handOver, ids: `${from} to ${from + count - 1}` };
}

/** Where QEMU runs. */
export interface VmSandbox {
  command: [string, ...string[]];
  /** Whose files and sockets must be; null: the user's own. */
  owner: number | null;
}

let works: Promise<void> | undefined;

/** Whether QEMU can have namespaces of its own here: resolves, or rejects with fault `host`. Asked once. */
export function sandboxWorks(): Promise<void> {
  return (works ??= (async () => {
    const args = await bwrapArgs({ readable: [], writable: [], network: false });
    await run('bwrap', [...args, '--', '/usr/bin/true']);
  })());
}

/** The way from root to an ordinary user without any capability, or, for an ordinary user, out of reach of new ones. */
export function withoutPrivilege(
  owner: number | null,
  groups: readonly number[] = [],
): [string, ...string[]] {
  const ids =
    owner === null
      ? []
      : [
          ...[`--reuid=${owner}`, `--regid=${owner}`],
          groups.length > 0 ? `--groups=${groups.join(',')}` : '--clear-groups',
          ...['--bounding-set=-all', '--inh-caps=-all'],
        ];
  // Last: a new uid takes the parent's death signal away, which setpriv knows.
  return ['setpriv', ...ids, '--no-new-privs', '--pdeathsig', 'KILL', '--'];
}

/** The group that may open /dev/kvm, when it is one that root would have to keep. */
export async function kvmGroup(): Promise<number[]> {
  const info = await stat('/dev/kvm').catch(() => null);
  return info && info.gid !== 0 && (info.mode & 0o060) === 0o060 ? [info.gid] : [];
}

/** What `how` gives, or `without` where an ordinary user may have no namespaces. Throws fault `host` for root, who never does without. */
async function whereConfined<T>(what: string, how: () => Promise<T>, without: T): Promise<T> {
  try {
    await sandboxWorks();
  } catch (error) {
    if (!isRoot()) return without;
    throw new Dkms2binError('host', `${what}${String((error as Error).message)}`, {
      hint: 'Install bubblewrap (sudo apt-get install bubblewrap), or run dkms2bin as an ordinary user.',
      cause: error,
    });
  }
  return how();
}

/**
 * What to put before a program of this host that reads what comes from elsewhere, a disk or an archive: it sees its own kind and
 * these files, no network and no other process, and has no capability. Nothing where an ordinary user may have no namespaces.
 * @public The bench measures what it costs.
 */
export function confined(contents: Pick<Contents, 'readable' | 'writable'>): Promise<string[]> {
  const how = async (): Promise<string[]> => [
    'bwrap',
    ...(await bwrapArgs({ ...contents, network: false })),
    ...['--cap-drop', 'ALL', '--'],
  ];
  return whereConfined(
    'Images and archives are not read as root, and their readers cannot be confined here: ',
    how,
    [],
  );
}

type Places = Partial<Pick<Contents, 'readable' | 'writable'>>;

async function confinedCommand(
  places: Places,
  command: readonly string[],
): Promise<[file: string, args: string[]]> {
  const [file = '', ...args] = [...(await confined({ readable: [], writable: [], ...places })), ...command];
  return [file, args];
}

/** Runs a program as `confined` tells. Paths are absolute. */
export async function runConfined(
  places: Places,
  command: readonly string[],
  options: RunOptions = {},
): Promise<ExecResult> {
  return run(...(await confinedCommand(places, command)), options);
}

/** As `runBytes`. */
export async function runBytesConfined(
  places: Places,
  command: readonly string[],
  options: Parameters<typeof runBytes>[2],
): Promise<Buffer> {
  return runBytes(...(await confinedCommand(places, command)), options);
}

/** As `runChunks`. */
export async function runChunksConfined(
  places: Places,
  command: readonly string[],
  options: Parameters<typeof runChunks>[2],
): Promise<void> {
  return runChunks(...(await confinedCommand(places, command)), options);
}

/**
 * The sandbox of one QEMU: it sees its programs, its own files and sockets, and no process but itself. Where an ordinary
 * user may have no namespaces, QEMU is that user's process, as any other; root's never runs without. Throws fault `host`.
 */
export async function vmSandbox(contents: Contents): Promise<VmSandbox> {
  const owner = isRoot() ? await idOfVm() : null;
  const keep =
    owner === null ? [] : ['SETUID', 'SETGID', 'SETPCAP'].flatMap((cap) => ['--cap-add', `CAP_${cap}`]);
  const how = async (): Promise<[string, ...string[]]> => [
    ...(['setpriv', '--pdeathsig', 'KILL', '--', 'bwrap'] as const),
    ...(await bwrapArgs(contents)),
    ...['--cap-drop', 'ALL', ...keep, '--'],
    ...withoutPrivilege(owner, contents.devices?.includes('/dev/kvm') ? await kvmGroup() : []),
  ];
  return {
    command: await whereConfined(
      'QEMU does not run as root, and cannot be confined here: ',
      how,
      withoutPrivilege(null),
    ),
    owner,
  };
}
