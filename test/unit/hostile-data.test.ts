import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import sax from 'sax';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { readBundle } from '../../src/attest/provenance.js';
import { readConfText } from '../../src/cell/source.js';
import { listKernels } from '../../src/distro/apt-index.js';
import { findRow, loadCatalogue } from '../../src/distro/catalogue.js';
import { findDkmsPackage } from '../../src/distro/dkms-package.js';
import { availableKernels } from '../../src/distro/kernels.js';
import { requireStandalone } from '../../src/environment/image-check.js';
import { cpioFiles } from '../../src/formats/cpio.js';
import { parseDeb } from '../../src/formats/deb.js';
import { PACKAGE_LIMITS, type PackageEntry, type PackageLimits } from '../../src/formats/package.js';
import { FrameReader } from '../../src/guest/frames.js';
import { runBuild } from '../../src/guest/programs/build.js';
import { Dkms2binError, messageOf } from '../../src/model/errors.js';
import { parseConfig } from '../../src/options/config.js';
import { hazardsOf } from '../../src/pack/hazards.js';
import { sharedFiles } from '../../src/pack/shared-files.js';
import {
  matrixAnnotations,
  matrixHtml,
  matrixJunit,
  matrixMarkdown,
  matrixText,
} from '../../src/report/index.js';
import { toJson } from '../../src/report/json.js';
import { resultLines } from '../../src/report/text.js';
import { corpus } from '../hostile/corpus.js';
import { ar, BINARY, CONTROL, tar } from './fixtures/deb.js';
import { FileServer, putRepo, sha256 } from './fixtures/file-server.js';
import { rows, standInGuest } from './fixtures/guest.js';
import { cell, kernel, run } from './fixtures/matrix.js';

/** What of test/hostile is read by this program itself: formats, indexes, rows, texts. No program of the host is started. */

let tmp = '';
beforeEach(() => void (tmp = mkdtempSync(join(tmpdir(), 'dk2b-hostile-'))));
afterEach(() => rmSync(tmp, { recursive: true, force: true, maxRetries: 5 }));

const named = <R extends { what: string }>(all: R[]): [string, R][] => all.map((row) => [row.what, row]);

/** Resolves to what `read` made, or throws unless it was refused as the row says, in words that fit on a terminal. */
async function answered<T>(answer: string, read: () => T | Promise<T>): Promise<T | null> {
  let made: T;
  try {
    made = await read();
  } catch (error) {
    expect(messageOf(error)).toMatch(new RegExp(answer, 'i'));
    expect(messageOf(error)).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/);
    return null;
  }
  expect(answer).toMatch(/\btaken\b/);
  return made;
}

interface Raw {
  name: string;
  type?: string;
  body?: string;
  link?: string;
  size?: string;
}
interface Archive {
  what: string;
  format: 'deb' | 'cpio';
  entries?: Raw[];
  control?: string | null;
  controlType?: string;
  members?: [string, string][];
  noData?: boolean;
  text?: string;
  /** MiB of zeros as the data, packed with gzip. */
  zeros?: number;
  cut?: number;
  limits?: Partial<PackageLimits>;
  entriesLimit?: number;
  answer: string;
  /** Paths that would be packed. */
  packed?: string[];
}

function debOf({ entries = [], control = CONTROL, controlType = '0', ...row }: Archive): Buffer {
  if (row.text !== undefined) return Buffer.from(row.text);
  const head = control === null ? [] : [{ name: './control', body: control, type: controlType }];
  const data: [string, Buffer] = row.zeros
    ? ['data.tar.gz', gzipSync(Buffer.alloc(row.zeros * 2 ** 20))]
    : ['data.tar', tar(...entries)];
  const more = (row.members ?? []).map(([name, text]): [string, Buffer] => [name, Buffer.from(text)]);
  const bytes = ar(BINARY, ['control.tar', tar(...head)], ...(row.noData ? [] : [data]), ...more);
  return bytes.subarray(0, row.cut ?? bytes.length);
}

/** newc, as rpm writes it, with fields that need not fit. */
function cpioOf(entries: (Raw & { mode?: number; nameSize?: number; raw?: string })[]): Buffer {
  const pad = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
  const entry = ({ name, body = '', mode = 0o100644, size, nameSize, raw }: (typeof entries)[0]): Buffer => {
    const fields = [1, mode, 0, 0, 1, 0, size ?? body.length, 0, 0, 0, 0, nameSize ?? name.length + 1, 0];
    const header = `070701${fields.map((each) => Number(each).toString(16).padStart(8, '0')).join('')}`;
    const text = raw === undefined ? header : raw + header.slice(raw.length);
    return Buffer.concat([pad(Buffer.from(`${text}${name}\0`)), pad(Buffer.from(body))]);
  };
  return Buffer.concat([...entries, { name: 'TRAILER!!!', mode: 0 }].map(entry));
}

describe('an archive', () => {
  test.each(named(corpus<Archive>('archives')))('%s', async (_, row) => {
    const files = await answered<PackageEntry[]>(row.answer, async () => {
      if (row.format === 'cpio')
        return cpioFiles(cpioOf(row.entries!), row.entriesLimit ?? PACKAGE_LIMITS.entries);
      return (await parseDeb(debOf(row), 'x.deb', row.limits)).files;
    });
    if (files && row.packed) expect(sharedFiles(files).extras.map(({ path }) => path)).toEqual(row.packed);
  });
});

describe('a dkms.conf', () => {
  test.each(named(corpus<{ what: string; input: string; answer: object }>('confs')))('%s', (_, row) => {
    expect(readConfText(row.input)).toEqual({ versions: [], ...row.answer });
  });
});

interface Text {
  what: string;
  input: string;
  answer: string;
}

describe('frames of a guest', () => {
  test.each(named(corpus<Text>('frames')))('%s', async (_, { input, answer }) => {
    const limits = { count: 5, single: 1000, total: 2000 };
    const read = () =>
      new FrameReader(Readable.from([Buffer.from(input, 'latin1')]), { kinds: ['log'], limits }).all();
    await answered(answer, read);
  });
});

describe('result rows of a guest', () => {
  const order = {
    source: { kind: 'folder', name: '', version: '', path: '/x', extra: [], brings: [] } as const,
    ...{
      release: '6.1.0-1-amd64',
      jobs: 1,
      epoch: 0,
      keep: false,
      debugSymbols: false,
      compileOnHost: false,
    },
  };
  test.each(named(corpus<{ what: string; input: string[]; answer: string }>('rows')))(
    '%s',
    async (_, { input, answer }) => {
      const { guest } = standInGuest({ 'build.sh': { stdout: rows(...input) } });
      await answered(answer, () => runBuild(guest, order, 'm', { timeoutMs: 1000 }));
    },
  );
});

describe('an image', () => {
  interface Image extends Text {
    version?: number;
    backing?: number;
    incompatible?: number;
    magic?: string;
    text?: string;
    length?: number;
  }
  test.each(named(corpus<Image>('images')))('%s', async (_, row) => {
    const header = Buffer.alloc(104);
    header.write(row.magic ?? 'QFI\xfb', 0, 'latin1');
    header.writeUInt32BE(row.version ?? 3, 4);
    header.writeBigUInt64BE(BigInt(row.backing ?? 0), 8);
    header.writeBigUInt64BE(BigInt(row.incompatible ?? 0), 72);
    const path = join(tmp, 'image.qcow2');
    writeFileSync(path, row.text ?? header.subarray(0, row.length ?? header.length));
    await answered(row.answer, () => requireStandalone(path));
  });
});

describe('a config file', () => {
  test.each(named(corpus<Text>('settings')))('%s', async (_, { input, answer }) => {
    await answered(answer, () => parseConfig(input));
  });
});

describe('a text that others chose', () => {
  test.each(named(corpus<Text>('texts')))('%s stays words in every report', (_, { input }) => {
    const on = kernel('6.1.0-5-amd64');
    const more = { reason: input, logTail: input, expected: input, worker: input };
    const now = run(
      9,
      [on],
      [cell(input, on, 'failed', more), cell('good', on, 'built', { package: `/o/${input}` })],
    );
    const reports = {
      text: matrixText(now, []),
      markdown: matrixMarkdown(now, []),
      junit: matrixJunit(now),
      html: matrixHtml(now, []),
      annotations: matrixAnnotations(now, []),
      json: toJson(now),
      lines: resultLines([{ ...cell(input, on, 'failed', more), verdict: 'failed' }]),
    };
    for (const [name, report] of Object.entries(reports))
      expect(report, name).not.toMatch(
        /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/,
      );
    const parser = sax.parser(true);
    parser.onerror = (error) => {
      throw error;
    };
    parser.write(reports.junit).close();
    // The page's own scripts are two: its data and its program.
    expect(reports.html.match(/<script/gi)).toHaveLength(plainPage(on).match(/<script/gi)!.length);
    expect(reports.html).not.toMatch(/<img|<!--<script/i);
    for (const line of reports.annotations.split('\n').filter(Boolean))
      expect(line).toMatch(/^::(?:error|warning|notice)/);
    // In a block of code the signs are themselves.
    const prose = reports.markdown.replaceAll(/^(`{3,})[^]*?^\1$/gm, '');
    expect(prose).not.toMatch(/<script|<img|^# title$/m);
  });
  const plainPage = (on: ReturnType<typeof kernel>): string =>
    matrixHtml(run(9, [on], [cell('good', on, 'built')]), []);
});

describe('provenance', () => {
  test.each(named(corpus<Text>('provenance')))('%s', async (_, { input, answer }) => {
    const path = join(tmp, 'x.intoto.jsonl');
    writeFileSync(path, input);
    await answered(answer, () => readBundle(path));
  });
});

describe('a file of a package', () => {
  interface Hazard extends Pick<PackageEntry, 'path' | 'type' | 'mode' | 'target'> {
    what: string;
    text: string;
    answer: string[];
  }
  test.each(named(corpus<Hazard>('hazards')))('%s', (_, { answer, text, ...file }) => {
    const found = hazardsOf([{ ...file, bytes: () => Buffer.from(text) }]);
    expect(found).toHaveLength(answer.length);
    answer.forEach((each, at) =>
      expect(found[at]).toMatch(
        new RegExp(each.includes('\\') ? each : each.replace(/[.*+?^${}()|[\]]/g, '\\$&')),
      ),
    );
    expect(found.join('')).not.toMatch(/[^\x20-\x7e]/);
  });
});

describe('an index of a mirror', () => {
  interface Index {
    what: string;
    format: 'apt' | 'dnf';
    packages?: string;
    release?: string;
    text?: string;
    wrongHash?: boolean;
    cut?: number;
    /** Put behind the packages so many times. */
    pad?: string;
    times?: number;
    /** Of the release file, filled with blanks. */
    size?: number;
    find?: string;
    put?: string;
    answer: string | string[];
  }
  const server = new FileServer();
  beforeAll(() => server.open());
  afterAll(() => server.close());
  beforeEach(() => {
    server.files.clear();
    server.requests.length = 0;
  });

  /** One suite; its index is what the row says. */
  function putSuite(row: Index): void {
    const more = (row.packages ?? '') + (row.pad ?? '').repeat(row.times ?? 0);
    const text = `Package: linux-image-6.12.117+deb13-amd64\nVersion: 6.12.117-1\n\n${more}`;
    const packed = row.text === 'raw' ? Buffer.from(row.packages!) : gzipSync(text);
    const name = 'main/binary-amd64/Packages.gz';
    const hash = row.wrongHash ? 'b'.repeat(64) : sha256(packed);
    server.put(
      '/debian/dists/trixie/InRelease',
      row.release?.padEnd(row.size ?? 0) ?? `Suite: trixie\nSHA256:\n ${hash} ${packed.length} ${name}\n`,
    );
    server.put(`/debian/dists/trixie/${name}`, packed.subarray(0, row.cut ?? packed.length));
  }

  async function namesIn(): Promise<string[]> {
    const common = { cacheDir: tmp, keyring: false, proxy: '', maxAge: 0 } as const;
    await listKernels({
      ...{ mirror: `${server.origin}/debian`, suites: [{ name: 'trixie', mirror: 'main' }], arch: 'amd64' },
      ...common,
    });
    const row = findRow(await loadCatalogue(), 'debian-13');
    const suites = row.suites.filter(({ name }) => name === 'trixie');
    return findDkmsPackage(
      { ...row, suites },
      { name: 'm-dkms' },
      { ...common, mirror: `${server.origin}/debian` },
    ).then(
      ({ name }) => [name],
      (error: unknown) => {
        if (error instanceof Dkms2binError && error.fault === 'not-found') return [];
        throw error;
      },
    );
  }

  const all = corpus<Index>('indexes');
  test.each(named(all.filter(({ format }) => format === 'apt')))('of apt: %s', async (_, row) => {
    putSuite(row);
    if (typeof row.answer === 'string') {
      await answered(row.answer, namesIn);
      return;
    }
    expect(await namesIn()).toEqual(row.answer);
  });

  test.each(named(all.filter(({ format }) => format === 'dnf')))('of dnf: %s', async (_, row) => {
    for (const repo of ['releases/43/Everything/x86_64/os', 'updates/43/Everything/x86_64']) {
      putRepo(server, `/linux/${repo}`, [{ name: 'kernel-core', evr: '6.17.1-300.fc43' }]);
      const path = `/linux/${repo}/repodata/repomd.xml`;
      const text = (server.files.get(path) as Buffer).toString();
      server.put(path, text.replace(new RegExp(row.find!, 'g'), row.put!.padEnd(row.size ?? 0)));
    }
    const read = async () =>
      availableKernels(findRow(await loadCatalogue(), 'fedora-43'), {
        ...{ cacheDir: tmp, mirror: server.origin, proxy: '', hostDistro: null },
      });
    const kernels = await answered(row.answer as string, read);
    if (kernels) expect(kernels.map(({ release }) => release)).toContain('6.17.1-300.fc43.x86_64');
    // Nothing but the repositories' own files was asked for.
    for (const url of server.requests)
      expect(url).toMatch(/^\/linux\/(?:releases|updates)\/43\/Everything\/x86_64/);
  });
});

test('the table of docs/security.md counts what is there', () => {
  const dir = new URL('../hostile/', import.meta.url);
  const tried = new Map<string, number>();
  for (const name of readdirSync(dir).filter((each) => each.endsWith('.json')))
    for (const row of corpus<{ class: string }>(name.replace('.json', '')))
      tried.set(row.class, (tried.get(row.class) ?? 0) + 1);
  const page = readFileSync(new URL('../../docs/security.md', import.meta.url), 'utf8');
  const table = /^## What was tried$[^]*?^## /m.exec(page)![0];
  const told = [...table.matchAll(/^\| ([^|]+?) \|[^|]*\| (\d+) \| (\d+|–) \|/gm)];
  const all = [...tried.values()].reduce((sum, count) => sum + count, 0);
  expect(Object.fromEntries(told.map(([, name, count]) => [name, Number(count)]))).toEqual({
    ...Object.fromEntries(tried),
    all,
  });
  // `–`: not run to the end yet.
  const run = told.filter(([, name, , held]) => name !== 'all' && held !== '–');
  for (const [, name, count, held] of run) {
    // Some of these have no result yet: the page says which.
    if (name === 'guest') expect(Number(held)).toBeLessThanOrEqual(Number(count));
    else expect(held, name).toBe(count);
  }
  const heldInAll = run.reduce((sum, [, , , held]) => sum + Number(held), 0);
  expect(told.at(-1)?.[3]).toBe(String(heldInAll));
  expect(tried.size).toBeGreaterThanOrEqual(12);
  expect(all).toBeGreaterThanOrEqual(120);
});
