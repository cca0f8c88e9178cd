import { lstatSync, readdirSync, readFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { compressionOf, decompress } from '../../src/formats/decompress.js';
import { stripSignature } from '../../src/pack/signature.js';
import type { Root } from './roots.js';

/** What became of a source. */
export interface Outcome {
  verdict: 'built' | 'skipped' | 'failed';
  /** All that was said of it. */
  said: string;
  /** The installed modules, without compression and signature, by their path below /lib/modules/RELEASE. */
  files: Map<string, Buffer>;
}

const MODULE = /\.ko(?:\.(?:xz|zst|gz))?$/;

export async function bare(bytes: Buffer): Promise<Buffer> {
  return stripSignature(
    compressionOf(bytes) === 'none'
      ? bytes
      : await decompress(bytes, compressionOf(bytes), 2 ** 26, 'a module'),
  );
}

/** The modules that were added to a root folder, in what was written over it. */
export async function koFiles(up: string, { release }: Root): Promise<Outcome['files']> {
  const found: Outcome['files'] = new Map();
  for (const lib of ['usr/lib', 'lib']) {
    const folder = join(up, lib, 'modules', release);
    if (!existsSync(folder)) continue;
    for (const path of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
      // What was deleted is a device node there.
      if (MODULE.test(path) && lstatSync(join(folder, path)).isFile())
        found.set(path, await bare(readFileSync(join(folder, path))));
    }
  }
  return found;
}

/** Of several modules: one that is not built tells of its source. */
export function worstOf(verdicts: readonly Outcome['verdict'][]): Outcome['verdict'] {
  if (verdicts.length === 0 || verdicts.includes('failed')) return 'failed';
  return verdicts.includes('built') ? 'built' : 'skipped';
}
