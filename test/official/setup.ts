import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { loadCatalogue } from '../../src/distro/catalogue.js';
import {
  missingForRigs,
  officialRig,
  RIG_ROWS,
  rigRow,
  serveRigs,
  writeRigCatalogue,
  type Suite,
} from '../rig/official.js';

declare module 'vitest' {
  interface ProvidedContext {
    /** Ids of the rows to be tried. */
    rows: string[];
  }
}

/**
 * The rows to be tried: with DKMS2BIN_TEST_OFFICIAL all of the catalogue, else those of Debian on images that are made like its own.
 * DKMS2BIN_TEST_ROWS names fewer: ids of the catalogue, with commas.
 */
export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const { DKMS2BIN_TEST_OFFICIAL, DKMS2BIN_TEST_ROWS } = process.env;
  const only = DKMS2BIN_TEST_ROWS?.split(',');
  const wanted = (id: string): boolean => only?.includes(id) ?? true;
  const road = { distro: '', image: 'official' as const, origin: '', catalogue: '', missing: '' };
  if (DKMS2BIN_TEST_OFFICIAL) {
    const rows = (await loadCatalogue()).filter(({ overlay }) => !overlay).map(({ id }) => id);
    project.provide('rows', rows.filter(wanted));
    project.provide('road', road);
    return undefined;
  }
  const missing = await missingForRigs();
  if (missing.length > 0) throw new Error(`No rig can be made here: no ${missing.join(', ')}`);
  const suites = (Object.keys(RIG_ROWS) as Suite[]).filter((suite) => wanted(RIG_ROWS[suite]));
  const folders: Partial<Record<Suite, string>> = {};
  for (const suite of suites) folders[suite] = await officialRig(suite);
  const served = await serveRigs(folders);
  const catalogue = await mkdtemp(join(tmpdir(), 'dk2b-catalogue-'));
  await writeRigCatalogue(join(catalogue, 'rigs.yaml'), served.origin);
  project.provide('rows', suites.map(rigRow));
  project.provide('road', { ...road, origin: served.origin, catalogue });
  return async () => {
    await served[Symbol.asyncDispose]();
    await rm(catalogue, { recursive: true, force: true });
  };
}
