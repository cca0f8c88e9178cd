import { z } from 'zod';
import { checkModuleName, checkModuleVersion } from '../../distro/package-names.js';
import { Dkms2binError } from '../../model/errors.js';
import { frameJson, FrameReader, type Frame, type FrameLimits } from '../frames.js';
import type { Guest } from '../guest.js';

/** Every name in it is the guest's word. */
const COLLECTED = z.object({
  modules: z.array(
    z.object({
      name: z.string(),
      version: z.string(),
      ko: z.array(z.object({ dest: z.string(), blob: z.number().int() })),
      debug: z.array(z.object({ file: z.string(), blob: z.number().int() })).default([]),
      debugTooLarge: z.boolean().default(false),
      dependency: z.boolean().default(false),
      log: z.number().int().nullish(),
      buildDepends: z.array(z.string()).default([]),
    }),
  ),
});

interface NamedBytes {
  name: string;
  bytes: Buffer;
}

/** What a build left of one module. Names of files are unchecked. */
export interface CollectedModule {
  name: string;
  version: string;
  ko: NamedBytes[];
  debug: NamedBytes[];
  /** Some debug symbols were too large to be sent. */
  debugTooLarge: boolean;
  log: Buffer | null;
  buildDepends: string[];
}

export interface Collected {
  modules: CollectedModule[];
}

/**
 * Takes what build.sh left in the guest. Throws `transient` for an answer that makes no sense, `module` for one beyond the
 * limits, with unusable names, or that names files it does not send.
 */
export async function collect(
  guest: Guest,
  limits: Pick<FrameLimits, 'single' | 'total'>,
): Promise<Collected> {
  const stream = await guest.program('collect.py', {});
  const frames = await new FrameReader(stream.stdout, {
    kinds: ['meta', 'ko', 'debug', 'log'],
    limits,
  }).all();
  await stream.done;
  return readCollected(frames);
}

function readCollected(frames: readonly Frame[]): Collected {
  const meta = frames.find((frame) => frame.kind === 'meta');
  if (!meta) throw new Dkms2binError('transient', 'The guest sent no description of what it built');
  const said = frameJson(meta, COLLECTED);
  const blob = (index: number, kind: string): Buffer => {
    const frame = frames.find((each) => each.index === index && each.kind === kind);
    if (!frame) throw new Dkms2binError('module', `The guest names a ${kind} file that it did not send`);
    return frame.bytes;
  };
  return {
    modules: said.modules.map((module) => ({
      name: checkModuleName(module.name),
      version: checkModuleVersion(module.version),
      ko: module.ko.map(({ dest, blob: index }) => ({ name: dest, bytes: blob(index, 'ko') })),
      debug: module.debug.map(({ file, blob: index }) => ({ name: file, bytes: blob(index, 'debug') })),
      debugTooLarge: module.debugTooLarge,
      log: typeof module.log === 'number' ? blob(module.log, 'log') : null,
      buildDepends: module.buildDepends.map(checkModuleName),
    })),
  };
}
