import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { cached, hashOf, type Entry } from '../cache/entries.js';
import { run } from '../lib/exec.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { backingChain, qemuImg } from '../lib/qemu-img.js';
import { messageOf } from '../model/errors.js';
import type { Machine } from './boot.js';
import type { KernelLayer } from './kernel-layer.js';
import { onDisk } from './on-disk.js';

/** What compiles kernel modules in a layer, in a folder of the host's. */
export interface CompilerRoot {
  /** Stands for the layer's root. */
  root: string;
  entry: Entry;
}

/** A slow disk takes some minutes. */
const MAX_SECONDS = 1800;
const SCRIPT = join(PACKAGE_ROOT, 'cloud-init', 'layer', 'compiler-root.sh');

/**
 * The compiler and the headers of a layer, taken out of its disk when the cache lacks them: about 200 MB, in some seconds. Null
 * where they are not asked for; where it does not work, a note says so, and compilations stay in the VM. The caller releases
 * `entry.use`.
 */
export async function compilerRoot(layer: KernelLayer, machine: Machine): Promise<CompilerRoot | null> {
  const { rootOffset } = layer;
  if (!machine.compileOnHost || layer.variant !== 'build' || rootOffset === null) return null;
  const id = basename(layer.entry.dir);
  try {
    const hash = hashOf(['compiler-1', id, layer.entry.meta.created, await readFile(SCRIPT, 'utf8')]);
    const entry = await cached(
      'compilers',
      hash,
      async (dir) => {
        await takeOut({ layer, rootOffset }, dir, machine);
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

async function takeOut(
  { layer, rootOffset }: { layer: KernelLayer; rootOffset: number },
  dir: string,
  { arch, signal }: Machine,
): Promise<void> {
  const { disk, release } = layer;
  const [root, raw] = [join(dir, 'root'), join(dir, 'disk.raw')];
  const options = { cancelSignal: signal, dieWithParent: true, timeout: MAX_SECONDS * 1000 };
  try {
    await mkdir(root, { mode: 0o755 });
    await writeFile(raw, '');
    const places = { readable: [disk, ...(await backingChain(disk))], writable: [raw] };
    await qemuImg(['convert', '-f', 'qcow2', '-O', 'raw', disk, raw], places, options);
    const filesystem = `${raw}?offset=${rootOffset}`;
    const command = ['bash', SCRIPT, root, filesystem, release, arch];
    await onDisk(root, command, { ...options, readable: [raw, SCRIPT] });
    // It is a folder: its files are brought to the disk here.
    await run('sync', ['-f', root], options);
  } finally {
    await rm(raw, { force: true });
  }
}
