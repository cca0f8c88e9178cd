import sax from 'sax';
import { describe, expect, it } from 'vitest';
import type { MatrixRun } from '../../../src/model/matrix.js';
import { matrixAnnotations, matrixJunit, matrixMarkdown, matrixText } from '../../../src/report/index.js';
import { cell, kernel, large, run } from '../fixtures/matrix.js';

const NEW = kernel('6.1.0-5-amd64');
const OLD = kernel('6.1.0-4-amd64');
const HOSTILE =
  ']]></failure><b x="1">&amp; \x1b[31m\x00\ud800 ```\n| @someone ::error::x %0A, <img src=x> `';

interface Element {
  name: string;
  attributes: Record<string, string>;
  text: string;
  children: Element[];
}

/** Strict: what is not well formed throws. */
function parse(xml: string): Element {
  const parser = sax.parser(true, { position: false });
  const root: Element = { name: '', attributes: {}, text: '', children: [] };
  const open = [root];
  parser.onerror = (error) => {
    throw error;
  };
  parser.onopentag = ({ name, attributes }) => {
    const element: Element = {
      name,
      attributes: attributes as Record<string, string>,
      text: '',
      children: [],
    };
    open.at(-1)!.children.push(element);
    open.push(element);
  };
  parser.onclosetag = () => open.pop();
  parser.ontext = (text) => (open.at(-1)!.text += text);
  parser.write(xml).close();
  return root.children[0]!;
}

const all = (element: Element, name: string): Element[] =>
  element.children.flatMap((child) => [...(child.name === name ? [child] : []), ...all(child, name)]);

describe('JUnit', () => {
  const now = run(
    9,
    [NEW, OLD],
    [
      cell('good', NEW, 'built', { signedBy: 'ab12', reproducible: true }),
      cell('bad', NEW, 'failed', {
        reason: 'bad.c:3:1: error: no\nsecond line',
        logTail: 'CC bad.o\nError 2\n',
      }),
      cell('away', NEW, 'error', { reason: 'mirror down', fault: 'transient' }),
      cell('good', OLD, 'up-to-date'),
      cell('bad', OLD, 'expected-failure', { reason: 'bad.c:3:1: error: no', expected: 'bug 12' }),
      cell('away', OLD, 'skipped', { reason: 'BUILD_EXCLUSIVE_KERNEL' }),
      cell('late', OLD, 'not-run'),
      cell('mended', OLD, 'unexpected-pass'),
    ],
  );
  const suites = all(parse(matrixJunit(now)), 'testsuite');
  const testCase = (suite: number, name: string): Element =>
    suites[suite]!.children.find((child) => child.attributes['name']?.startsWith(`${name} `))!;

  it('has a suite for each kernel whose numbers are those of its cases', () => {
    expect(suites.map((suite) => suite.attributes['name'])).toEqual([
      'debian-12 6.1.0-5-amd64',
      'debian-12 6.1.0-4-amd64',
    ]);
    for (const suite of suites) {
      const { tests, failures, errors, skipped } = suite.attributes;
      expect([tests, failures, errors, skipped].map(Number)).toEqual(
        ['testcase', 'failure', 'error', 'skipped'].map((name) => all(suite, name).length),
      );
    }
    const properties = all(suites[0]!, 'property').map(({ attributes }) => [
      attributes['name'],
      attributes['value'],
    ]);
    expect(Object.fromEntries(properties)).toMatchObject({
      kernel: NEW.release,
      distro: 'debian-12',
      accelerators: 'tcg',
    });
  });

  it('tells a failure with the compiler error and the log', () => {
    const [failure, out] = testCase(0, 'bad').children;
    expect(failure).toMatchObject({
      name: 'failure',
      attributes: { message: 'bad.c:3:1: error: no', type: 'module' },
      text: 'bad.c:3:1: error: no\nsecond line',
    });
    expect(out!.text).toContain('CC bad.o\nError 2');
    expect(testCase(0, 'away').children[0]).toMatchObject({
      name: 'error',
      attributes: { message: 'mirror down' },
    });
  });

  it('skips with the reason what does not apply, what is expected to fail and what had no turn', () => {
    const message = (name: string): unknown => testCase(1, name).children[0]?.attributes['message'];
    expect(message('away')).toBe('BUILD_EXCLUSIVE_KERNEL');
    expect(message('bad')).toBe('expected failure: bug 12');
    expect(message('late')).toBe('not run');
    expect(all(testCase(1, 'mended'), 'skipped')).toEqual([]);
    expect(all(testCase(0, 'good'), 'system-out')[0]!.text).toContain('signed by: ab12');
  });

  it('stays whole with the text of a hostile guest', () => {
    const evil = cell('evil', NEW, 'failed', { reason: HOSTILE, logTail: HOSTILE, version: '"><x/>' });
    const document = parse(matrixJunit(run(9, [NEW], [evil])));
    expect(all(document, 'b')).toEqual([]);
    expect(all(document, 'failure')[0]!.text).toBe(
      ']]></failure><b x="1">&amp; \ufffd ```\n| @someone ::error::x %0A, <img src=x> `',
    );
  });
});

describe('annotations', () => {
  /** As the runner reads a line: the properties and the message, turned back. */
  const read = (line: string): { name: string; title: string; message: string } => {
    const [, name, title, message] = /^::(\w+) title=([^:,]*)::(.*)$/.exec(line) ?? [];
    const back = (text = ''): string =>
      text
        .replaceAll('%2C', ',')
        .replaceAll('%3A', ':')
        .replaceAll('%0A', '\n')
        .replaceAll('%0D', '\r')
        .replaceAll('%25', '%');
    return { name: name ?? '', title: back(title), message: back(message) };
  };
  const lines = (now: MatrixRun, history: MatrixRun[] = []) =>
    matrixAnnotations(now, history).split('\n').filter(Boolean).map(read);

  it('are errors, what broke since the last run first, and warnings of what is mended', () => {
    const now = run(
      9,
      [NEW],
      [
        cell('ok', NEW, 'built'),
        cell('old', NEW, 'failed', { reason: 'old.c:1:1: error: x' }),
        cell('new', NEW, 'failed', { reason: 'new.c:1:1: error: y, 100%\nmore' }),
        cell('mended', NEW, 'unexpected-pass', { expected: 'bug 7' }),
      ],
    );
    const before = run(8, [NEW], [cell('new', NEW, 'built'), cell('old', NEW, 'failed')]);
    const found = lines(now, [before]);
    expect(found.map(({ name, title }) => [name, title])).toEqual([
      ['error', 'new 1.2.3 on 6.1.0-5-amd64 (debian-12): failed'],
      ['error', 'old 1.2.3 on 6.1.0-5-amd64 (debian-12): failed'],
      ['warning', 'mended 1.2.3 on 6.1.0-5-amd64 (debian-12): unexpected pass'],
    ]);
    expect(found[0]!.message).toMatch(
      /^new\.c:1:1: error: y, 100%\nmore\nIt was built in the run of 2026-03-08/,
    );
    expect(found[2]!.message).toContain('bug 7');
  });

  it('are one line each, whatever a guest says', () => {
    const evil = cell('ev,il:', NEW, 'failed', {
      version: 'a\n::warning::b',
      reason: '\r\n::set-env name=A::b',
    });
    const text = matrixAnnotations(run(9, [NEW], [evil]), []);
    expect(text.match(/^::/gm)).toHaveLength(1);
    expect(lines(run(9, [NEW], [evil]))[0]!.message).toBe('::set-env name=A::b');
  });

  it('are no more than GitHub shows; the last names the rest', () => {
    const cells = Array.from({ length: 25 }, (_, i) => cell(`m${i}`, NEW, 'failed'));
    const found = lines(run(9, [NEW], cells));
    expect(found).toHaveLength(10);
    expect(found[9]!.title).toBe('16 cells more');
    expect(found[9]!.message).toContain('m24');
  });
});

describe('Markdown', () => {
  it('shows the grid of what went wrong, and folds the failures', () => {
    const now = run(
      9,
      [NEW, OLD],
      [
        cell('bad', NEW, 'failed', { reason: 'bad.c:3:1: error: no', logTail: 'make: *** Error 2\n' }),
        cell('bad', OLD, 'built'),
        cell('good', NEW, 'built'),
        cell('good', OLD, 'up-to-date'),
      ],
    );
    const text = matrixMarkdown(now, [run(8, [NEW], [cell('bad', NEW, 'built')])]);
    expect(text).toMatch(/^### ❌ dkms2bin: 1 of 4 cells did not build$/m);
    expect(text).toMatch(/^\| bad \| ❌ \| ✅ \|$/m);
    expect(text).toContain('1 failed · 1 up to date · 2 built · 2 modules × 2 kernels in 1:05:09');
    expect(text).toMatch(
      /\*\*Broke since the last run \(2026-03-08 03:00 UTC\)\*\*\n\n- <code>bad 1\.2\.3<\/code> on 6\.1\.0-5-amd64/,
    );
    expect(text).toContain('first bad kernel 6.1.0-5-amd64, last good 6.1.0-4-amd64');
    const folded = [...text.matchAll(/<details>.*?<\/details>/gs)].map(([block]) => block);
    expect(folded).toHaveLength(2);
    expect(folded[0]).toContain('| good | ✅ | ✔️ |');
    expect(folded[1]).toContain('```text\nmake: *** Error 2\n```');
    expect(text.replace(folded[0]!, '')).not.toContain('| good |');
  });

  it('fits into a comment of GitHub and says what it left out', () => {
    const cells = Array.from({ length: 400 }, (_, i) =>
      cell(`m${i}`, NEW, 'failed', { reason: `m${i}.c:1:1: error: no`, logTail: 'x'.repeat(2000) }),
    );
    const text = matrixMarkdown(run(9, [NEW], cells), []);
    expect(text.length).toBeLessThanOrEqual(65_536);
    expect(text).toMatch(/\d+ parts of this report did not fit into a comment/);
    expect(text.match(/<details>/g)?.length).toBe(text.match(/<\/details>/g)?.length);
  });

  it('lets no text of a guest out of its place', () => {
    const evil = cell('e|v`il', NEW, 'failed', { reason: HOSTILE, logTail: '````\n</details>\n# hi' });
    const text = matrixMarkdown(run(9, [NEW], [evil]), []);
    const outside = text.replace(/^(`{3,})text\n.*?^\1$/gms, '');
    expect(outside).not.toMatch(/<img|<b |@someone|\|v|`/);
    expect(text).toContain('`````text\n````\n</details>\n# hi\n`````');
  });
});

describe('text', () => {
  it('is a table with words while that fits, then what broke, then the sum', () => {
    const now = run(
      9,
      [NEW, OLD],
      [
        cell('bad', NEW, 'failed', { reason: 'bad.c:3:1: error: no' }),
        cell('bad', OLD, 'built'),
        cell('good', NEW, 'up-to-date'),
      ],
    );
    const lines = matrixText(now, [run(8, [NEW], [cell('bad', NEW, 'built')])]).split('\n');
    expect(lines[0]).toMatch(/^ +6\.1\.0-5-amd64 {2}6\.1\.0-4-amd64$/);
    expect(lines[1]).toMatch(/^bad +failed +built$/);
    expect(lines[2]).toMatch(/^good +up to date$/);
    expect(lines).toContain('  bad 1.2.3 on 6.1.0-5-amd64: built on 2026-03-08 03:00 UTC');
    expect(lines).toContain('  bad 1.2.3 on 6.1.0-5-amd64: bad.c:3:1: error: no');
    expect(lines.at(-2)).toBe('3 cells: 1 failed, 1 up to date, 1 built');
  });

  it('is a table with letters and a key when there are many kernels', () => {
    const { now, before } = large(10, 30);
    const lines = matrixText(now, before).split('\n');
    expect(lines).toContain('30  ubuntu-24.04  6.8.0-51-amd64');
    expect(lines.find((line) => line.startsWith('xtables_addons '))).toMatch(/^xtables_addons +F +F +F +\+ /);
    expect(Math.max(...lines.slice(0, 43).map((line) => line.length))).toBeLessThanOrEqual(110);
  });

  it('is said to be of a run that was ended early', () => {
    const text = matrixText(run(9, [NEW], [cell('late', NEW, 'not-run')], { complete: false }), []);
    expect(text).toContain('1 cell: 1 not run (the run was ended early)');
  });
});
