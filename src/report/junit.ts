import type { MatrixCell, MatrixKernel, MatrixRun } from '../model/matrix.js';
import { oneLine, plain } from '../lib/text.js';
import { kernelKey, moduleOf, OUTCOMES, reasonOf } from './grid.js';

/**
 * JUnit XML as Jenkins (junit-10.xsd) and GitLab read it: a suite for each kernel, a case for each module. What the
 * matrix expects to fail, and what had no turn, is skipped.
 */
export function matrixJunit(run: MatrixRun): string {
  const suites = run.kernels.map((kernel) => {
    const cells = run.cells.filter(
      (cell) => kernelKey({ ...cell, release: cell.kernel }) === kernelKey(kernel),
    );
    return suite(run, kernel, cells);
  });
  const { tests, failures, errors, time } = sums(run.cells);
  return [
    '<?xml version="1.0" encoding="UTF-8"?>\n',
    `<testsuites${attributes({ name: 'dkms2bin matrix', tests, failures, errors, time })}>\n`,
    ...suites,
    '</testsuites>\n',
  ].join('');
}

function suite(run: MatrixRun, kernel: MatrixKernel, cells: MatrixCell[]): string {
  const properties = {
    run: run.run,
    'dkms2bin.version': run.tool,
    complete: String(run.complete),
    distro: kernel.distro,
    arch: kernel.arch,
    kernel: kernel.release,
    'kernel.package.version': kernel.packageVersion,
    accelerators: run.accelerators.join(', '),
  };
  // Without parts of a second, as the common schemas want it.
  const timestamp = run.startedAt.replace(/(\.\d+)?Z$/, '');
  return [
    `  <testsuite${attributes({ name: `${kernel.distro} ${kernel.release}`, ...sums(cells), timestamp })}>\n`,
    '    <properties>\n',
    ...Object.entries(properties)
      .filter(([, value]) => value !== null && value !== '')
      .map(([name, value]) => `      <property${attributes({ name, value })}/>\n`),
    '    </properties>\n',
    ...cells.map(testCase),
    '  </testsuite>\n',
  ].join('');
}

function sums(
  cells: readonly MatrixCell[],
): Record<'tests' | 'failures' | 'errors' | 'skipped' | 'time', string> {
  const count = (...tags: string[]): string =>
    String(cells.filter((cell) => tags.includes(tagOf(cell))).length);
  return {
    tests: String(cells.length),
    failures: count('failure'),
    errors: count('error'),
    skipped: count('skipped'),
    time: seconds(cells.reduce((sum, cell) => sum + (cell.seconds ?? 0), 0)),
  };
}

const seconds = (value: number): string => value.toFixed(3);

function tagOf({ outcome }: MatrixCell): 'failure' | 'error' | 'skipped' | '' {
  if (outcome === 'failed') return 'failure';
  if (outcome === 'error') return 'error';
  return outcome === 'skipped' || outcome === 'expected-failure' || outcome === 'not-run' ? 'skipped' : '';
}

function testCase(cell: MatrixCell): string {
  // Jenkins takes what is before the last dot for a package, and a kernel release has dots of its own.
  const classname = `${cell.distro}.${cell.kernel.replaceAll('.', '_')}`;
  const name = cell.source === cell.module ? cell.module : `${cell.module} (${cell.source})`;
  const tag = tagOf(cell);
  const reason = reasonOf(cell) || OUTCOMES[cell.outcome].word;
  const message = cell.expected === null ? reason : `${OUTCOMES[cell.outcome].word}: ${plain(cell.expected)}`;
  const type = { failure: 'module', error: cell.fault ?? 'transient', skipped: cell.outcome, '': '' }[tag];
  const result =
    tag && `      <${tag}${attributes({ message: firstLine(message), type })}>${escape(reason)}</${tag}>\n`;
  const time = cell.seconds === null ? null : seconds(cell.seconds);
  return [
    `    <testcase${attributes({ classname, name: oneLine(name), time })}>\n`,
    result,
    `      <system-out>${escape(factsOf(cell))}</system-out>\n`,
    '    </testcase>\n',
  ].join('');
}

const firstLine = (text: string): string => oneLine(text.split('\n')[0] ?? '');

/** What a test's result has no field for: `name: value` lines, then the end of make.log where it is wanted. */
function factsOf(cell: MatrixCell): string {
  const facts = {
    outcome: cell.outcome,
    module: moduleOf(cell),
    expected: cell.expected,
    package: cell.package,
    log: cell.log,
    reproducible: cell.reproducible === undefined ? null : String(cell.reproducible),
    'signed by': cell.signedBy,
    worker: cell.worker,
    'log in': cell.kept && `dkms2bin login ${cell.kept}`,
  };
  const lines = Object.entries(facts).flatMap(([name, value]) =>
    value ? [`${name}: ${oneLine(value)}`] : [],
  );
  for (const [name, value] of Object.entries(cell.phases))
    lines.push(`phase ${oneLine(name)}: ${value.toFixed(1)} s`);
  const failed = cell.outcome === 'failed' || cell.outcome === 'expected-failure';
  return failed && cell.logTail ? `${lines.join('\n')}\n\n${plain(cell.logTail)}` : lines.join('\n');
}

function attributes(values: Record<string, string | null>): string {
  return Object.entries(values)
    .map(([name, value]) => (value === null ? '' : ` ${name}="${escape(value)}"`))
    .join('');
}

const ENTITY: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

/** For text and for attributes in double quotes; what XML 1.0 has no way to write becomes U+FFFD. */
function escape(text: string): string {
  return text
    .replace(/[\0-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]/gu, '\ufffd')
    .replace(/[&<>"]/g, (char) => ENTITY[char] ?? char);
}
