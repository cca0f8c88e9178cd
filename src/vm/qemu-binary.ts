import { access, constants, realpath, stat } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { missingTool } from '../lib/exec.js';
import { standardVariable } from '../lib/variables.js';

/** What tells this host's QEMU from another build of it: a memory snapshot fits the one that made it alone. */
export async function qemuIdentity(arch: Arch): Promise<string> {
  const path = await findQemu(`qemu-system-${arch}`);
  const binary = await stat(path);
  return `${path} ${binary.size} ${binary.mtimeMs}`;
}

/** The binary itself behind the name, links resolved: its size and time stand for its version. */
export async function findQemu(name: string): Promise<string> {
  const candidates = name.includes('/')
    ? [name]
    : (standardVariable('PATH') ?? '').split(delimiter).map((folder) => join(folder || '.', name));
  for (const path of candidates) {
    try {
      await access(path, constants.X_OK);
      if ((await stat(path)).isFile()) return await realpath(path);
    } catch {
      // Not there: the next one.
    }
  }
  throw missingTool(name);
}
