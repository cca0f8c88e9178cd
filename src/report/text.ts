import type { CellResult } from '../model/cell.js';
import { oneLine, plain, plural } from '../lib/text.js';

/** Left-aligned columns, two spaces apart; the last column is not padded. One line per row, no header of its own. */
export function table(rows: readonly (readonly string[])[]): string {
  const clean = rows.map((row) => row.map(oneLine));
  const widths: number[] = [];
  for (const row of clean) row.forEach((text, i) => (widths[i] = Math.max(widths[i] ?? 0, text.length)));
  return clean
    .map((row) => row.map((text, i) => text.padEnd(widths[i] ?? 0)).join('  '))
    .map((line) => `${line.trimEnd()}\n`)
    .join('');
}

const nameOf = (cell: CellResult): string => (cell.version ? `${cell.module} ${cell.version}` : cell.module);

/** The first line of a reason that says something. */
function headline(reason: string | null): string {
  const line = (reason ?? '').split('\n').find((l) => l.trim() !== '');
  return line === undefined ? '' : oneLine(line).trim();
}

/**
 * The result lines for stdout: `built   acpi_call 1.2.2  6.1.0-56-amd64  /out/….deb`. Below come the packages that go with it,
 * `with` in front; one that several kernels share stands there once.
 */
export function resultLines(cells: readonly CellResult[]): string {
  const told = new Set<string>();
  const rows = cells.flatMap((cell) => {
    const others = (cell.otherPackages ?? []).filter((path) => !told.has(path));
    for (const path of others) told.add(path);
    return [
      {
        word: cell.verdict,
        columns: [
          ...[nameOf(cell), cell.kernel, cell.package ?? headline(cell.reason)],
          ...(cell.reproducible ? ['reproducible'] : []),
        ],
      },
      ...others.map((path) => ({ word: 'with', columns: ['', '', path] })),
    ];
  });
  const lines = table(rows.map(({ columns }) => columns)).split('\n');
  return rows.map(({ word }, i) => `${word.padEnd(7)} ${lines[i] ?? ''}\n`).join('');
}

/**
 * What went wrong in one cell and what to do next; empty for a cell that is built or skipped. Without `headline` when the
 * result lines have told the reason's first line.
 */
export function failureText(cell: CellResult, { headline: told = true } = {}): string {
  if (cell.verdict !== 'failed' && cell.verdict !== 'error') return '';
  const step = Object.keys(cell.phases).at(-1);
  const head = `${oneLine(nameOf(cell))} on ${oneLine(cell.kernel)} (${oneLine(cell.distro)}): ${cell.verdict}`;
  const lines = [step === undefined ? head : `${head} in step "${oneLine(step)}"`];
  const reason = plain(cell.reason ?? 'no reason was given')
    .trim()
    .split('\n');
  for (const line of told || cell.reason === null ? reason : reason.slice(1))
    lines.push(`  ${line.trimEnd()}`);
  if (cell.log !== null) lines.push(`  log:    ${oneLine(cell.log)}`);
  if (cell.kept !== null) lines.push(`  log in: dkms2bin login ${oneLine(cell.kept)}`);
  else if (cell.verdict === 'failed')
    lines.push('  hint:   run it again with --debug (or --keep-failed) to keep the VM and log in');
  return `${lines.join('\n')}\n`;
}

/** `3 cells: 2 built, 1 failed`. */
export function summary(cells: readonly CellResult[]): string {
  const parts = (['built', 'skipped', 'failed', 'error'] as const)
    .map((verdict) => [verdict, cells.filter((cell) => cell.verdict === verdict).length] as const)
    .filter(([, count]) => count > 0)
    .map(([verdict, count]) => `${count} ${verdict}`);
  return `${plural(cells.length, 'cell')}: ${parts.join(', ') || 'nothing to do'}`;
}
