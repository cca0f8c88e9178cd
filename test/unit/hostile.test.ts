import type { ZodType } from 'zod';
import { describe, expect, test } from 'vitest';
import * as forms from '../../src/model/forms.js';
import { checkModuleName, checkModuleVersion } from '../../src/distro/package-names.js';
import { checkRelease } from '../../src/distro/release.js';
import { Guest } from '../../src/guest/guest.js';
import { Dkms2binError, messageOf } from '../../src/model/errors.js';
import { errorText } from '../../src/cli/run.js';
import { requireAskedFor } from '../../src/engine/queue/delivery.js';
import { parseDelivery, parseJob } from '../../src/engine/queue/protocol.js';
import { changedAt, corpus, DELIVERY, JOB, placesOf } from '../hostile/corpus.js';

/** The unit part of test/hostile: what needs no program of the host. */

interface Row {
  at: string;
  input: unknown;
  answer: string;
}
const shown = (value: unknown): string => JSON.stringify(value).slice(0, 80);

describe('forms', () => {
  type Form = 'Release' | 'PackageName' | 'Version';
  const rows = corpus<{ form: Form; input: unknown; answer: string }>('forms');

  test.each(rows.map((row) => [row.form, shown(row.input), row.answer, row] as const))(
    '%s: %s is %s',
    (name, _, answer, { input }) => {
      const form: ZodType = forms[name];
      expect(form.safeParse(input).success).toBe(answer === 'taken');
    },
  );

  // A form that is laxer than the check behind it would let an error through that ends more than one cell.
  test('what the names of packages are made of takes no more than the forms', () => {
    const checks = { Release: checkRelease, PackageName: checkModuleName, Version: checkModuleVersion };
    for (const { form, input, answer } of rows) {
      const check = Object.hasOwn(checks, form) ? checks[form] : undefined;
      if (check && answer === 'refused' && typeof input === 'string')
        expect(() => check(input), shown(input)).toThrow();
    }
  });

  test('a name is made plain, and a text is made words', () => {
    for (const name of ['My driver', '../../x', '-rf', '.x', '', 'a\nb', 'x'.repeat(400), 'a..b'])
      expect(forms.FileName.safeParse(forms.plainFileName(name)).success, name).toBe(true);
    expect(forms.wordsOf('a\u001b[2Jb\r\n\u202ec\td')).toBe('a[2Jb\nc\td');
  });
});

describe('a job', () => {
  test('is taken as it was made', () => {
    expect(parseJob(JOB)).toEqual(JOB);
    const repo = { kind: 'repo', text: 'acpi-call-dkms', name: 'acpi-call-dkms', version: '1.2.2-2' };
    expect(parseJob({ ...JOB, source: repo }).source).toEqual(repo);
  });

  test.each(corpus<Row>('jobs').map((row) => [row.at, shown(row.input), row] as const))(
    'with %s %s is refused',
    (_, __, { at, input }) => {
      const refused = expect(() => parseJob(changedAt(JOB as object, at, input)));
      refused.toThrow(/^The queue holds a job that cannot be read: [^\u001b]*$/);
    },
  );
});

describe('a delivery', () => {
  const job = parseJob(JOB);
  const others = [
    'm-modules-common_1_all.deb',
    'm-modules-6.1.0-1-amd64-dbgsym_1_amd64.deb',
    `${DELIVERY.files[0]!.name}.intoto.jsonl`,
    `${DELIVERY.files[0]!.name}.cdx.json`,
    'm-modules-common_1_all.deb.cdx.json',
  ].map((name) => ({ ...DELIVERY.files[0]!, name }));

  test('is taken as it was packed, with all that may come along', () => {
    const delivery = parseDelivery({ ...DELIVERY, files: [...DELIVERY.files, ...others] });
    expect(() => requireAskedFor(delivery, job, 'deb')).not.toThrow();
    const error = { module: './m', version: null, verdict: 'error', fault: 'transient', reason: 'why' };
    const row = { ...DELIVERY.results[0], ...error, package: null, log: null };
    expect(() =>
      requireAskedFor(parseDelivery({ ...DELIVERY, results: [row], files: [] }), job, 'deb'),
    ).not.toThrow();
  });

  test.each([
    ['kmod', '6.1.0-1.el9.x86_64', 'kmod-m-6.1.0-1.el9.x86_64-1-1.x86_64.rpm'],
    ['kmp', '6.4.0-150600.23.25-default', 'm-kmp-default-1_k6.4.0_150600.23.25-1.x86_64.rpm'],
  ] as const)('of a %s has its names', (form, release, name) => {
    const [row] = DELIVERY.results;
    const log = name.replace(/rpm$/, 'log');
    const delivery = parseDelivery({
      ...DELIVERY,
      results: [{ ...row, kernel: release, package: name, log }],
      files: [name, log, 'm-kmod-common-1-1.noarch.rpm'].map((each) => ({
        ...DELIVERY.files[0],
        name: each,
      })),
    });
    const itsJob = { ...job, kernel: { release } };
    expect(() => requireAskedFor(delivery, itsJob, form)).not.toThrow();
    expect(() => requireAskedFor(delivery, itsJob, 'deb')).toThrow('is called');
  });

  test('with two rows for one module is refused', () => {
    const twice = parseDelivery({ ...DELIVERY, results: [DELIVERY.results[0], DELIVERY.results[0]] });
    expect(() => requireAskedFor(twice, job, 'deb')).toThrow('m 1 has two results');
  });

  test.each(corpus<Row>('deliveries').map((row) => [row.at, shown(row.input), row] as const))(
    'with %s %s is refused',
    (_, __, { at, input, answer }) => {
      const bad = changedAt(DELIVERY, at, input);
      if (answer === 'no delivery') return expect(() => parseDelivery(bad)).toThrow(/^[^\u001b]+$/);
      expect(() => requireAskedFor(parseDelivery(bad), job, 'deb')).toThrow(answer);
    },
  );
});

describe('every string of a job and of a delivery', () => {
  const [sha256, commit] = ['a'.repeat(64), 'c'.repeat(40)];
  const local = { kind: 'tarball', text: './m.tar', file: 'm.tar', sha256 };
  const repo = { kind: 'repo', text: 'm-dkms', name: 'm-dkms', version: '1-1', module: 'm' };
  /** With all that may be there. */
  const job = {
    ...JOB,
    source: { ...local, origin: { url: 'https://h.example/r.git', commit } },
    otherSources: [repo, local],
    kernelPackages: [{ file: 'linux-image.deb', sha256 }],
    buildPackages: [{ name: 'bc' }, { file: 'x.deb', sha256 }],
    need: { distro: 'debian-12', arch: 'x86_64', accelerator: 'tcg', signer: sha256 },
  };
  const delivery = {
    ...DELIVERY,
    results: [{ ...DELIVERY.results[0], reason: 'up to date', notes: ['a note'] }],
  };
  /** Words for people, and a URL, which the class form has: there such a thing may be meant. */
  const TEXT = /(?:^|\.)text$|^source\.origin\.url$|^results\.0\.(?:module|reason|notes\.0)$|^worker$/;
  const SEVERAL_LINES = 'results.0.reason';

  interface Value {
    what: string;
    /** {} is what was there. */
    input?: unknown;
    repeat?: number;
    taken?: 'in texts' | 'in texts of several lines';
  }
  const rows = corpus<Value>('strings').map((row) => [row.what, row] as const);

  test.each([
    ['a job', job, parseJob, 28],
    ['a delivery', delivery, parseDelivery, 16],
  ] as const)('%s is taken, and has so many', (_, whole, parse, count) => {
    expect(parse(whole)).toEqual(whole);
    expect(placesOf(whole)).toHaveLength(count);
  });

  test.each(rows)('refused: %s', (_, { input, repeat, taken }) => {
    for (const [whole, parse] of [
      [job, parseJob],
      [delivery, parseDelivery],
    ] as const)
      for (const [at, was] of placesOf(whole)) {
        if (taken === 'in texts' && TEXT.test(at)) continue;
        if (taken === 'in texts of several lines' && at === SEVERAL_LINES) continue;
        const value = repeat ? was.padEnd(repeat, was) : input;
        const bad = changedAt<object>(
          whole,
          at,
          typeof value === 'string' ? value.replace('{}', was) : value,
        );
        expect(() => parse(bad), at).toThrow(Dkms2binError);
      }
  });
});

describe('what a package prints', () => {
  /** A guest whose program prints these pieces; NONCE in them is the run's own. */
  const printing = (...pieces: string[]): Guest =>
    new Guest({
      alive: (work) => work,
      transport: {
        exec: async (_, { input, stdout, stderr }) => {
          const nonce = (input as string).slice(0, 32);
          for (const piece of pieces) stdout.write(piece.replaceAll('NONCE', nonce));
          await new Promise<void>((resolve) => stdout.end(resolve));
          await new Promise<void>((resolve) => stderr.end(resolve));
          return { code: 0, timedOut: false };
        },
        close: () => Promise.resolve(),
      },
    });
  const RUN = { timeoutMs: 1000 };

  interface Print {
    what: string;
    text: string;
    /** Letters before the text, on the same line. */
    fill: number;
    times: number;
    answer: object[];
  }
  test.each(corpus<Print>('prints').map((row) => [row.what, row] as const))(
    'is no report: %s',
    async (_, { text, fill, times, answer }) => {
      const line = `${`${'x'.repeat(fill)}${text}`.repeat(times)}\n`;
      expect((await printing(line).script('settle.sh', {}, RUN)).reports).toEqual(answer);
      // Also when it knew the word, and in whatever pieces it comes.
      if (fill === 0) return;
      const knowing = line.replaceAll('@@dkms2bin', '@@dkms2bin:NONCE');
      const pieces = knowing.match(/[^]{1,5000}/g)!;
      for (const said of [[knowing], pieces])
        expect((await printing(...said).script('settle.sh', {}, RUN)).reports).toEqual(answer);
    },
  );

  test('a cut line marks where it goes on; the next line is a report again', async () => {
    const lines: string[] = [];
    const long = 'y'.repeat(20_000);
    const guest = printing(long, '@@dkms2bin:NONCE a b\n', '@@dkms2bin:NONCE note d\n');
    const { reports } = await guest.script('settle.sh', {}, { ...RUN, onLine: (line) => lines.push(line) });
    expect(reports).toEqual([{ key: 'note', value: 'd' }]);
    expect(lines.map((line) => line.slice(0, 13))).toEqual(['y'.repeat(13), '… @@dkms2bin:']);
  });
});

test('an error shows no password of a URL', () => {
  const places =
    'Looked in:\n  http://me:s3cret@mirror.example/debian trixie: not there\n  redis://:s3cret@q.example';
  const error = new Dkms2binError('not-found', places, { hint: 'Try https://s3cret@x.example/?a=b@c' });
  expect(`${error.message} ${error.hint}`).not.toContain('s3cret');
  expect(error.message).toContain('http://mirror.example/debian trixie: not there');
  expect(error.hint).toBe('Try https://x.example/?a=b@c');
  expect(messageOf(new Error('http://me:a@s3cret@h.example/x@y'))).toBe('http://h.example/x@y');
  const bug = new TypeError(places);
  expect(messageOf(bug)).toContain('http://mirror.example/debian trixie: not there');
  for (const env of [{}, { DKMS2BIN_TRACE: '1' }]) {
    const text = errorText(bug, env);
    expect(text).toContain('redis://q.example');
    expect(text).not.toContain('s3cret');
  }
});
