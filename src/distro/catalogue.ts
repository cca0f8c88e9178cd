import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseDocument } from 'yaml';
import type { z } from 'zod';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { PACKAGE_ROOT } from '../lib/paths.js';
import { variable } from '../lib/variables.js';
import { fillRow } from './catalogue-fill.js';
import { FileHead, OverlayFileHead, OverlayInput, RowInput, type CatalogueRow } from './catalogue-schema.js';
import { overlayRows, type Overlay } from './overlays.js';
import { readKernelRepo, type RepoOptions } from './kernel-repo.js';
import { unknownDistro } from './row.js';

export type { CatalogueArch, CatalogueRow, SumsForm } from './catalogue-schema.js';

/** The catalogue that comes along, and a folder of the user's own rows. */
function catalogueDirs(): string[] {
  const own = variable('DKMS2BIN_CATALOGUE');
  return [join(PACKAGE_ROOT, 'images'), ...(own ? [own] : [])];
}

/** Reads every `*.yaml` of the folders. Throws fault `usage` naming file, row and field of each mistake. */
export async function loadCatalogue(...dirs: string[]): Promise<CatalogueRow[]> {
  const mistakes: string[] = [];
  const rows: CatalogueRow[] = [];
  const overlays: Overlay[] = [];
  for (const dir of dirs.length > 0 ? dirs : catalogueDirs()) {
    for (const name of await catalogueFiles(dir)) {
      const file = join(dir, name);
      const text = await readFile(file, 'utf8').catch((error: unknown) => {
        throw unreadable(file, error);
      });
      rows.push(...parseFile({ file, text, dir }, mistakes, overlays));
    }
  }
  // Those of the user's own folder may stand on top of rows that come along.
  rows.push(
    ...overlays.flatMap((each) =>
      overlayRows(each, rows, (field, message) =>
        mistakes.push(`${each.file}: overlay ${each.overlay.id}: ${field}: ${message}`),
      ),
    ),
  );
  const owner = new Map<string, CatalogueRow>();
  for (const row of rows) {
    for (const [field, word] of [
      ['id', row.id],
      ...row.aliases.map((alias) => ['aliases', alias]),
    ] as const) {
      const other = owner.get(word);
      if (other)
        mistakes.push(
          `${row.file}: row ${row.id}: ${field}: ${word} already names ${other.id} of ${other.file}`,
        );
      else owner.set(word, row);
    }
  }
  for (const { file, id, next } of rows) {
    if (next !== undefined && !rows.some((row) => row.id === next))
      mistakes.push(`${file}: row ${id}: next: there is no row ${next}`);
  }
  if (mistakes.length > 0) {
    throw new Dkms2binError(
      'usage',
      `The image catalogue has mistakes:\n${mistakes.map((m) => `  ${m}`).join('\n')}`,
    );
  }
  return rows;
}

const unreadable = (path: string, error: unknown): Dkms2binError =>
  new Dkms2binError('usage', `Cannot read the image catalogue ${path}: ${messageOf(error)}`, {
    cause: error,
  });

async function catalogueFiles(dir: string): Promise<string[]> {
  let names: string[];
  try {
    names = (await readdir(dir)).filter((name) => name.endsWith('.yaml')).sort();
  } catch (error) {
    throw unreadable(dir, error);
  }
  if (names.length === 0) throw new Dkms2binError('usage', `The image catalogue ${dir} holds no *.yaml file`);
  return names;
}

/**
 * The catalogue with the repositories of `--kernel-repo` and of the config file on top. Throws fault `usage` for a file that cannot be used.
 */
export async function catalogueOf({
  kernelRepos = [],
  ...options
}: RepoOptions & { kernelRepos?: readonly string[] | undefined }): Promise<CatalogueRow[]> {
  const rows = await loadCatalogue();
  for (const file of kernelRepos) {
    const own = (await readKernelRepo(file, options, rows)).flatMap((each) => {
      const place = each.asked ? `--kernel-repo ${file}` : `${file}: kernels`;
      const made = overlayRows(each, rows, (field, message) => {
        throw new Dkms2binError('usage', `${place}: ${field}: ${message}`);
      });
      const taken = made.find((row) => rows.some(({ id, aliases }) => [id, ...aliases].includes(row.id)));
      if (taken)
        throw new Dkms2binError('usage', `${place}: ${taken.id} is the name of a distro already`, {
          hint: /\.ya?ml$/.test(file) ? 'Give it another id.' : 'Give the file another name.',
        });
      return made;
    });
    rows.push(...own);
  }
  return rows;
}

/** The row of an id or alias. Throws fault `usage` listing the ids. */
export function findRow(rows: readonly CatalogueRow[], name: string): CatalogueRow {
  const row = rows.find((r) => r.id === name || r.aliases.includes(name));
  if (row) return row;
  throw unknownDistro(name, rows);
}

function parseFile(
  { file, text, dir }: { file: string; text: string; dir: string },
  mistakes: string[],
  overlays: Overlay[],
): CatalogueRow[] {
  const document = parseDocument(text, { merge: true, prettyErrors: true });
  if (document.errors.length > 0) {
    mistakes.push(...document.errors.map((error) => `${file}: ${error.message.trim()}`));
    return [];
  }
  let content: unknown;
  try {
    content = document.toJS({ maxAliasCount: 1000 });
  } catch (error) {
    mistakes.push(`${file}: ${messageOf(error)}`);
    return [];
  }
  if (typeof content === 'object' && content !== null && 'overlays' in content) {
    overlays.push(...parseOverlays(content, { file, dir }, mistakes));
    return [];
  }
  const head = FileHead.safeParse(content);
  if (!head.success) {
    mistakes.push(...issues(head.error).map((issue) => `${file}: ${issue}`));
    return [];
  }
  const rows: CatalogueRow[] = [];
  head.data.rows.forEach((raw, index) => {
    const id = (raw as { id?: unknown } | null)?.id;
    const where = `${file}: row ${typeof id === 'string' ? id : `#${index + 1}`}`;
    const parsed = RowInput.safeParse(raw);
    if (!parsed.success) {
      mistakes.push(...issues(parsed.error).map((issue) => `${where}: ${issue}`));
      return;
    }
    const row = { ...parsed.data, family: head.data.family, file };
    const before = mistakes.length;
    fillRow(row, dir, (field, message) => mistakes.push(`${where}: ${field}: ${message}`));
    if (mistakes.length === before) rows.push(row);
  });
  return rows;
}

function parseOverlays(
  content: object,
  { file, dir }: { file: string; dir: string },
  mistakes: string[],
): Overlay[] {
  const head = OverlayFileHead.safeParse(content);
  if (!head.success) {
    mistakes.push(...issues(head.error).map((issue) => `${file}: ${issue}`));
    return [];
  }
  return head.data.overlays.flatMap((raw, index) => {
    const id = (raw as { id?: unknown } | null)?.id;
    const where = `${file}: overlay ${typeof id === 'string' ? id : `#${index + 1}`}`;
    const parsed = OverlayInput.safeParse(raw);
    if (parsed.success) return [{ overlay: parsed.data, file, dir }];
    mistakes.push(...issues(parsed.error).map((issue) => `${where}: ${issue}`));
    return [];
  });
}

function issues(error: z.ZodError): string[] {
  return error.issues.map((issue) => {
    const field = issue.path.map(String).join('.');
    return field ? `${field}: ${issue.message}` : issue.message;
  });
}
