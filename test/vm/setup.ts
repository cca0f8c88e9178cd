import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { missingForRigs, officialRig, rigRow, serveRigs, writeRigCatalogue } from '../rig/official.js';

/** The road that the tests of this folder take. */
export interface Road {
  distro: string;
  /** Value of --image. */
  image: 'official' | 'bootstrap';
  /** Server of the images, when it is ours. */
  origin: string;
  /** Value of DKMS2BIN_CATALOGUE; '' for none. */
  catalogue: string;
  /** Why it is not the official image's. */
  missing: string;
}

declare module 'vitest' {
  interface ProvidedContext {
    road: Road;
  }
}

/**
 * Once for all files: the official image of Debian 12 is one that is made like it and served here, or with
 * DKMS2BIN_TEST_OFFICIAL the real one. Where neither can be had, the image is bootstrapped.
 */
export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const { DKMS2BIN_TEST_OFFICIAL, DKMS2BIN_TEST_RIG, DKMS2BIN_TEST_AARCH64 } = process.env;
  const road: Road = { distro: 'debian-12', image: 'official', origin: '', catalogue: '', missing: '' };
  if (DKMS2BIN_TEST_OFFICIAL) {
    project.provide('road', road);
    return undefined;
  }
  // Those need no image of Debian 12.
  const other = DKMS2BIN_TEST_RIG || DKMS2BIN_TEST_AARCH64;
  const missing = other ? ['a test of another road'] : await missingForRigs();
  if (missing.length > 0) {
    project.provide('road', { ...road, image: 'bootstrap', missing: missing.join(', ') });
    return undefined;
  }
  const served = await serveRigs({ bookworm: await officialRig('bookworm') });
  const catalogue = await mkdtemp(join(tmpdir(), 'dk2b-catalogue-'));
  await writeRigCatalogue(join(catalogue, 'rigs.yaml'), served.origin);
  project.provide('road', { ...road, distro: rigRow('bookworm'), origin: served.origin, catalogue });
  return async () => {
    await served[Symbol.asyncDispose]();
    await rm(catalogue, { recursive: true, force: true });
  };
}
