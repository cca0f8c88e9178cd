import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdtempSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { messageOf } from '../../src/model/errors.js';
import { removeScratch } from '../../src/lib/namespace.js';
import { entered, rootOf, type Root } from '../conformance/roots.js';
import { nativePackage } from '../conformance/native.js';
import { ofPrepared } from '../conformance/ours.js';
import type { CompileCount } from '../../src/compiler/service.js';
import type { Outcome } from '../conformance/outcome.js';

// Every package of the distro that brings a DKMS source, from main, contrib and non-free: installed and built by the distro's own
// dkms, and fetched, built and packed by dkms2bin, in the same root folder. Environment: DKMS2BIN_TEST_DISTROS names others than
// these two; DKMS2BIN_TEST_PACKAGES is a pattern of names; DKMS2BIN_TEST_LARGE=1 takes the large ones as well; with
// DKMS2BIN_TEST_COMPILE=host the host compiles for dkms2bin's side, as it does for an emulated VM; DKMS2BIN_TEST_TABLE is a file
// to which each result is added as a row of Markdown.
const {
  DKMS2BIN_TEST_DISTROS,
  DKMS2BIN_TEST_PACKAGES = '',
  DKMS2BIN_TEST_LARGE,
  DKMS2BIN_TEST_COMPILE,
  DKMS2BIN_TEST_TABLE,
} = process.env;
const DISTROS = (DKMS2BIN_TEST_DISTROS ?? 'debian-12 debian-13').split(' ');
/** Minutes of a processor, or gigabytes of what they depend on. */
const LARGE = /^(?:nvidia-|zfs-|lttng-modules-|openafs-|ezurio-|falcosecurity-)/;
/** Of dkms itself: tools, and a package that is there for its tests. */
const NONE = ['dh-dkms'];
const onHost = DKMS2BIN_TEST_COMPILE === 'host';
/** What differs on purpose. */
const DIFFERS: Readonly<Record<string, string>> = {};

describe.each(DISTROS)('%s', (distro) => {
  let root: Root;
  let work: string;
  let names: string[];
  const inRoot = (...command: string[]): string => {
    const [file, ...args] = [...entered(root, join(work, 'ask')), ...command];
    return execFileSync(file!, args, { encoding: 'utf8', maxBuffer: 2 ** 26 });
  };
  beforeAll(async () => {
    // The kernel that most machines run: a cloud's lacks what many of them are for.
    root = await rootOf(distro, 'amd64');
    const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'dkms2bin');
    work = mkdtempSync(join(cache, 'test-archive-'));
    vi.stubEnv('DKMS2BIN_STATE', join(work, 'state'));
    names = inRoot('apt-cache', 'pkgnames')
      .split('\n')
      .filter((name) => name.endsWith('-dkms') && !NONE.includes(name))
      .filter((name) => new RegExp(DKMS2BIN_TEST_PACKAGES).test(name))
      .filter((name) => DKMS2BIN_TEST_LARGE === '1' || !LARGE.test(name))
      .sort();
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    // An overlay leaves a folder that nobody may read.
    await removeScratch(work);
  });

  test('each of them comes to what the distro’s own dkms makes of it', async () => {
    expect(names.length).toBeGreaterThan(0);
    const wrong: string[] = [];
    let hosted = 0;
    for (const name of names) {
      const { Version = '', SHA256 = '' } = Object.fromEntries(
        [
          ...inRoot('apt-cache', 'show', '--no-all-versions', name).matchAll(/^(Version|SHA256): (.*)$/gm),
        ].map(([, key, value]) => [key, value]),
      ) as Record<string, string>;
      const here = join(work, name);
      const started = performance.now();
      const theirs = await nativePackage(root, join(here, 'native'), name);
      const own = await ofPrepared(
        root,
        join(here, 'ours', 'guest'),
        {
          source: { kind: 'repo', text: name, name },
          package: { name, version: Version },
          ...{ with: [], brings: [], digest: SHA256, network: true },
        },
        { distro, onHost },
      ).catch((error: unknown): Awaited<ReturnType<typeof ofPrepared>> => ({
        verdict: 'failed',
        said: messageOf(error),
        files: new Map(),
      }));
      await removeScratch(here);
      const difference = differenceOf(theirs, own);
      const seconds = Math.round((performance.now() - started) / 1000);
      const { compilations } = own;
      const where = compilations ? `, ${compiledText(compilations)}` : '';
      const words =
        difference ?? (own.verdict === 'built' ? `${own.files.size} modules${where}` : firstLine(own.said));
      hosted += compilations?.host ?? 0;
      if (difference !== null && DIFFERS[name] === undefined)
        wrong.push(`${name}: ${difference}\n${theirs.said}\n${own.said}`);
      if (DKMS2BIN_TEST_TABLE)
        appendFileSync(
          DKMS2BIN_TEST_TABLE,
          `| ${name} | ${Version} | ${distro} | ${theirs.verdict} | ${own.verdict} | ${words.replaceAll('|', '/')} | ${seconds} |\n`,
        );
    }
    expect(wrong).toEqual([]);
    // Where it compiles nothing, the bytes prove nothing.
    if (onHost) expect(hosted).toBeGreaterThan(0);
  });
});

/** In words; null when there is none. */
function differenceOf(theirs: Outcome, own: Outcome): string | null {
  if (theirs.verdict !== own.verdict)
    return `dkms: ${theirs.verdict}, dkms2bin: ${own.verdict} (${firstLine(own.said)})`;
  const all = new Set([...theirs.files.keys(), ...own.files.keys()]);
  const bad = [...all].filter(
    (path) => !theirs.files.get(path)?.equals(own.files.get(path) ?? Buffer.alloc(0)),
  );
  return bad.length > 0 ? `other bytes, or in one of them alone: ${bad.sort().join(', ')}` : null;
}

const compiledText = ({ host, guest }: CompileCount): string =>
  [
    `${host} files compiled on the host`,
    ...Object.entries(guest).map(([why, n]) => `${n} in the root folder (${why})`),
  ].join(', ');

const firstLine = (text: string): string => text.split('\n')[0]!.slice(0, 160);
