// What the benchmark measures with: commands with their seconds, statistics, a table.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

export const say = (text) => process.stderr.write(`bench: ${text}\n`);

/** Clock ticks per second in /proc: the same on every Linux of this architecture. */
const TICKS = 100;

/** Fields of /proc/PID/stat behind the command's name, which may hold blanks: [0] is the state, field 3 of proc(5). */
const statFields = (text) => text.slice(text.lastIndexOf(')') + 2).split(' ');

/**
 * User and system seconds of all descendants of this process that ended and were waited for, by whoever started them:
 * the kernel adds a child's own time and that of its waited-for children to its parent when the parent waits.
 */
function childrenSeconds() {
  const fields = statFields(readFileSync('/proc/self/stat', 'utf8'));
  return (Number(fields[13]) + Number(fields[14])) / TICKS;
}

/** Age and CPU seconds of a living process; the kernel counts its age from the fork, in hundredths. */
export async function processSeconds(pid) {
  const fields = statFields(await readFile(`/proc/${pid}/stat`, 'utf8'));
  const uptime = Number((await readFile('/proc/uptime', 'utf8')).split(' ')[0]);
  return {
    wall: uptime - Number(fields[19]) / TICKS,
    cpu: (Number(fields[11]) + Number(fields[12])) / TICKS,
  };
}

/**
 * Runs a command to its end; resolves with exit code, output, wall and CPU seconds. Only one may run at a time, or the
 * CPU seconds would be mixed up. Its standard error is passed to `onLine`, line by line, and kept. `signal` ends it and
 * all of its process group.
 */
export async function measure(command, args, { env, cwd, signal, onLine }) {
  signal.throwIfAborted();
  const before = childrenSeconds();
  const started = performance.now();
  const child = spawn(command, args, {
    env: { ...process.env, ...env },
    cwd,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const stop = () => {
    try {
      process.kill(-child.pid, 'SIGTERM');
    } catch {
      // It has ended.
    }
  };
  signal.addEventListener('abort', stop);
  let stdout = '';
  let stderr = '';
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    for (const line of lines) onLine?.(line);
  });
  try {
    // When it ends, and not when the last of its output is read: that may be later.
    let wall = 0;
    child.once('exit', () => (wall = (performance.now() - started) / 1000));
    const code = await new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (status, by) => resolve(status ?? by));
    });
    signal.throwIfAborted();
    return { code, stdout, stderr, wall, cpu: childrenSeconds() - before };
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** Least, middle and greatest of one or more numbers. */
export function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  const median = sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  return { min: sorted[0], median, max: sorted.at(-1) };
}

/** Three digits that matter, and no fewer before the point. */
export function show(value) {
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  return value.toFixed(size >= 10 ? 1 : 2);
}

/** Rows of cells as lines, columns as wide as their widest cell. */
export function columns(rows) {
  const widths = rows[0].map((_, at) => Math.max(...rows.map((row) => row[at].length)));
  return rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at]))
      .join('  ')
      .trimEnd(),
  );
}
