import { mkdirSync, mkdtempSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { native } from './native.js';
import { ours } from './ours.js';
import { removeScratch } from '../../src/lib/namespace.js';
import { rootOf, type Root } from './roots.js';
import { koOf, SOURCES, writeSource, type Source } from './sources.js';

// The judge is the distro's own dkms: it and dkms2bin's guest program get the same source in the same root folder, and must come
// to the same files, the same verdict, and a reason that names the same thing. DKMS2BIN_TEST_DISTROS names others than these four,
// DKMS2BIN_TEST_SOURCES is a pattern of sources.
const DISTROS = (process.env.DKMS2BIN_TEST_DISTROS ?? 'debian-11 debian-12 debian-13 debian-sid').split(' ');
const CHOSEN = new RegExp(process.env.DKMS2BIN_TEST_SOURCES ?? '');
const byId = new Map(SOURCES.map((each) => [each.id, each]));

describe.each(DISTROS)('%s', (distro) => {
  let root: Root;
  let work: string;
  beforeAll(async () => {
    root = await rootOf(distro);
    // Not /tmp: an overlay cannot lie on every file system.
    const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'dkms2bin');
    work = mkdtempSync(join(cache, 'test-conformance-'));
    vi.stubEnv('DKMS2BIN_STATE', join(work, 'state'));
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    // An overlay leaves a folder that nobody may read.
    await removeScratch(work);
  });

  test.each(SOURCES.filter(({ id }) => CHOSEN.test(id)).map((source) => [source.id, source] as const))(
    '%s',
    async (id, source) => {
      const here = join(work, id);
      const theirs = await native(root, join(here, 'native'), prepare(join(here, 'native'), source));
      const outcome = await ours(
        root,
        join(here, 'ours', 'guest'),
        folders(join(here, 'ours'), source),
        distro,
      );
      await removeScratch(here);
      // What came along is installed as well by then, and is not what this is about.
      for (const id of source.along ?? []) {
        for (const path of theirs.files.keys())
          if (path.includes(`/${koOf(id)}.ko`)) theirs.files.delete(path);
      }
      const { differs } = source;
      if (differs && (differs.dkms?.test(root.dkms) ?? true) && theirs.verdict !== differs.ours) {
        expect(outcome, theirs.said).toMatchObject({ verdict: differs.ours });
        return;
      }
      expect(outcome.verdict, `native: ${theirs.verdict}\n${theirs.said}\nours: ${outcome.said}`).toBe(
        theirs.verdict,
      );
      expect([...outcome.files.keys()].sort()).toEqual([...theirs.files.keys()].sort());
      for (const [path, bytes] of theirs.files)
        expect(outcome.files.get(path)?.equals(bytes), path).toBe(true);
      if (theirs.verdict === 'built') return;
      // The same thing is named, by each in its own words.
      const names = source.names ?? /no pattern/;
      expect(theirs.said).toMatch(names);
      expect(outcome.said).toMatch(names);
    },
  );
});

const withAlong = (source: Source): Source[] => [...(source.along ?? []).map((id) => byId.get(id)!), source];

/** Writes a source and those that come along; their folders on this host. */
function folders(dir: string, source: Source): string[] {
  return withAlong(source).map((each) => {
    const folder = join(dir, 'sources', each.id);
    writeSource(each, folder);
    return folder;
  });
}

/** The same in a root folder's upper one; their folders there. */
function prepare(upper: string, source: Source): string[] {
  const srv = join(upper, 'up', 'srv');
  mkdirSync(srv, { recursive: true });
  return withAlong(source).map((each) => {
    writeSource(each, join(srv, each.id));
    return `/srv/${each.id}`;
  });
}
