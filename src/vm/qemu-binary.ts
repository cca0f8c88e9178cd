import { access, constants, realpath, stat } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import type { Arch } from '../model/cell.js';
import { missingTool, run } from '../lib/exec.js';
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

const asked = new Map<string, Promise<boolean>>();

/** Whether QEMU can map a memory file that it may only read: since 8.2. An older one opens it for writing, whatever it does. */
export async function mapsReadOnly(arch: Arch, signal?: AbortSignal): Promise<boolean> {
  const path = await findQemu(`qemu-system-${arch}`);
  let answer = asked.get(path);
  if (!answer)
    asked.set(path, (answer = versionOf(path, signal).then(([major, minor]) => major * 100 + minor >= 802)));
  return answer;
}

async function versionOf(path: string, signal?: AbortSignal): Promise<[number, number]> {
  const { stdout } = await run(path, ['--version'], {
    timeout: 10_000,
    ...(signal && { cancelSignal: signal }),
  });
  const [, major = 0, minor = 0] = /version (\d+)\.(\d+)/.exec(stdout) ?? [];
  return [Number(major), Number(minor)];
}
