import { chown, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { cached, hashOf, type Entry } from '../cache/entries.js';
import { run } from '../lib/exec.js';
import { SBIN } from '../lib/namespace.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { vmSandbox } from '../lib/sandbox.js';
import { messageOf } from '../model/errors.js';
import type { Machine } from './boot.js';
import type { KernelLayer } from './kernel-layer.js';

/** What compiles kernel modules in a layer, in a folder of the host's. */
export interface CompilerRoot {
  /** Stands for the layer's root. */
  root: string;
  entry: Entry;
}

const SCRIPT = join(PACKAGE_ROOT, 'cloud-init', 'layer', 'compiler-root.sh');

/**
 * The compiler and the headers of a layer, taken out of its disk when the cache lacks them: about 200 MB, in some seconds. Null
 * where they are not asked for; where it does not work, a note says so, and compilations stay in the VM. The caller releases
 * `entry.use`.
 */
export async function compilerRoot(layer: KernelLayer, machine: Machine): Promise<CompilerRoot | null> {
  if (!machine.compileOnHost || layer.variant !== 'build' || layer.rootOffset === null) return null;
  const id = basename(layer.entry.dir);
  try {
    const hash = hashOf(['compiler-1', id, layer.entry.meta.created, await readFile(SCRIPT, 'utf8')]);
    const entry = await cached(
      'compilers',
      hash,
      async (dir) => {
        await takeOut(layer, dir, machine);
        return { name: `compiler ${layer.release}`, parents: [{ kind: 'layers', hash: id }] };
      },
      { signal: machine.signal },
    );
    return { root: join(entry.dir, 'root'), entry };
  } catch (error) {
    machine.signal.throwIfAborted();
    const message = `Compilations stay in the VM, which emulates them: ${messageOf(error)}`;
    machine.emit({ type: 'note', level: 'warn', message });
    return null;
  }
}

async function takeOut(layer: KernelLayer, dir: string, { arch, signal }: Machine): Promise<void> {
  const [root, raw] = [join(dir, 'root'), join(dir, 'disk.raw')];
  const options = { cancelSignal: signal, env: SBIN, dieWithParent: true };
  try {
    await mkdir(root, { mode: 0o755 });
    await writeFile(raw, '');
    await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', layer.disk, raw], options);
    const { command, owner } = await vmSandbox({ readable: [raw, SCRIPT], writable: [root], network: false });
    if (owner !== null) await chown(root, owner, owner);
    const [program, ...before] = command;
    const filesystem = `${raw}?offset=${layer.rootOffset ?? 0}`;
    await run(program, [...before, 'bash', SCRIPT, root, filesystem, layer.release, arch], options);
    // It is a folder: its files are brought to the disk here.
    await run('sync', ['-f', root], options);
  } finally {
    await rm(raw, { force: true });
  }
}
