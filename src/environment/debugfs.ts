import { join } from 'node:path';
import { Dkms2binError } from '../model/errors.js';

interface FileEntry {
  /** Whether it may have changed. */
  touched: boolean;
  /** As find's %y: d, f, l, … */
  type: string;
  /** Octal. */
  mode: string;
  uid: string;
  gid: string;
  /** Seconds since 1970, with a fraction. */
  time: string;
  path: string;
  /** Of a symbolic link. */
  target: string;
}

/**
 * debugfs's commands that turn a file system into the folder `root`. `before` has a line of type and path for everything
 * in the file system, `after` one for everything in the folder: `+` for what may have changed, type, mode, uid, gid,
 * modification time, path, link target; separated by tabs, parents first. Throws fault `host` for a name that debugfs
 * cannot take and for a change of a device, pipe or socket.
 */
export function debugfsCommands(before: string, after: string, root: string): string {
  const known = new Map<string, string>();
  for (const line of lines(before)) {
    const [type = '', path = ''] = fields(line, 2);
    known.set(path, type);
  }
  const now = lines(after).map(entryOf);
  const types = new Map(now.map(({ path, type }) => [path, type]));
  const commands: string[] = [];
  const gone = [...known].filter(([path, type]) => types.get(path) !== type);
  // Reversed, so that a folder goes after what was in it.
  for (const [path, type] of gone.sort(([a], [b]) => (a < b ? 1 : -1))) {
    commands.push(`${type === 'd' ? 'rmdir' : 'rm'} ${word(`/${path}`)}`);
    known.delete(path);
  }
  for (const entry of now) {
    const isKnown = known.has(entry.path);
    if (entry.touched || !isKnown) commands.push(...put(entry, isKnown, root), ...own(entry, isKnown));
  }
  return commands.map((command) => `${command}\n`).join('');
}

function entryOf(line: string): FileEntry {
  const [mark, type = '', mode = '', uid = '', gid = '', time = '', path = '', target = ''] = fields(line, 8);
  return { touched: mark === '+', type, mode, uid, gid, time, path, target };
}

/** Puts the entry where it belongs; what is there already and is no folder is replaced. */
function put({ type, mode, path, target }: FileEntry, isKnown: boolean, root: string): string[] {
  const to = word(`/${path}`);
  const gone = isKnown ? [`rm ${to}`] : [];
  switch (type) {
    case 'd':
      return [...(isKnown ? [] : [`mkdir ${to}`]), `sif ${to} mode 04${mode.padStart(4, '0')}`];
    case 'f':
      // Takes the mode along, not the owner.
      return [...gone, `write ${word(join(root, path))} ${to}`];
    case 'l':
      return [...gone, `symlink ${to} ${word(target)}`];
    default:
      throw new Dkms2binError('host', `debugfs cannot write ${path}: it is of type ${type}`);
  }
}

/** Owner and time. What debugfs makes anew is root's. */
function own({ uid, gid, time, path }: FileEntry, isKnown: boolean): string[] {
  const to = word(`/${path}`);
  return [
    ...(isKnown || uid !== '0' ? [`sif ${to} uid ${uid}`] : []),
    ...(isKnown || gid !== '0' ? [`sif ${to} gid ${gid}`] : []),
    `sif ${to} mtime @${Math.floor(Number(time))}`,
  ];
}

const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '');

function fields(line: string, count: number): string[] {
  const found = line.split('\t');
  if (found.length !== count) throw new Dkms2binError('host', `debugfs cannot take this path: ${line}`);
  return found;
}

/** A word of debugfs's commands. */
function word(text: string): string {
  if (/["\r]/.test(text)) throw new Dkms2binError('host', `debugfs cannot take this path: ${text}`);
  return `"${text}"`;
}
