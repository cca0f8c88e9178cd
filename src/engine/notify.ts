import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { writeAtomic } from '../lib/atomic-write.js';
import type { Net } from '../lib/download.js';
import { packageVersion } from '../lib/paths.js';
import { post } from '../lib/post.js';
import { oneLine, plural } from '../lib/text.js';
import type { CellResult } from '../model/cell.js';
import { messageOf, type Dkms2binError } from '../model/errors.js';
import type { HeldBack, Notification } from '../model/notification.js';
import { NotificationDocument } from '../model/result-schema.js';
import type { MetapackageResult } from './metapackages.js';

/** What a round of `refresh` came to; `metapackages` is null where nothing was published. */
export type Round =
  | { cells: readonly CellResult[]; metapackages: readonly MetapackageResult[] | null }
  | { error: Dkms2binError };

/** What is known at the other end, and what could not be posted yet. */
const Told = z.object({
  schemaVersion: z.literal(1),
  /** SHA-256 of the URL, which may be a secret. */
  to: z.string(),
  failing: z.array(z.string()),
  held: z.array(z.string()),
  error: z.string().nullable(),
  unsent: NotificationDocument.shape.built,
});
type Told = z.infer<typeof Told>;

const NOTHING: Omit<Told, 'to'> = { schemaVersion: 1, failing: [], held: [], error: null, unsent: [] };

/** Hidden, so that it is no part of the repository. */
const toldPath = (outDir: string): string => join(outDir, '.dkms2bin-notified.json');

const placeOf = ({ module, kernel, distro, arch }: CellResult): string =>
  [module, kernel, distro, arch].join(' ');
const heldOf = ({ package: name, distro, waitsFor, version }: HeldBack): string =>
  [name, distro, waitsFor, version].join(' ');

/**
 * Posts what is new since the last document that was delivered; nothing new, no post. Never throws: what could not be posted is
 * told as a warning and comes again with the next round.
 */
export async function notify(outDir: string, url: string, round: Round, net: Net): Promise<void> {
  const warn = (message: string): void => net.emit({ type: 'note', level: 'warn', message });
  try {
    const to = createHash('sha256').update(url).digest('hex');
    const told = await readTold(outDir, to);
    const document = documentOf(outDir, round, told);
    const now = stateAfter(round, document, told);
    if (!isNews(document, now, told)) {
      // What no longer fails is news the next time that it does.
      if (now.failing.length !== told.failing.length) await writeTold(outDir, now);
      return;
    }
    try {
      await post(url, JSON.stringify(document), net);
      await writeTold(outDir, now);
    } catch (error) {
      warn(`The notification was not delivered: ${messageOf(error)}. It is posted again in the next round.`);
      await writeTold(outDir, { ...told, unsent: document.built });
    }
  } catch (error) {
    warn(`What was posted is not remembered: ${messageOf(error)}`);
  }
}

function documentOf(outDir: string, round: Round, told: Told): Notification {
  const cells = 'error' in round ? [] : round.cells;
  const held = 'error' in round ? [] : (round.metapackages ?? []).flatMap(heldBack);
  const document: Omit<Notification, 'text'> = {
    schemaVersion: 1,
    tool: packageVersion(),
    host: hostname(),
    repository: outDir,
    at: new Date().toISOString(),
    built: [...told.unsent, ...cells.flatMap(builtNow)],
    failing: cells.filter((cell) => fails(cell) && !told.failing.includes(placeOf(cell))).map(failing),
    held,
    error:
      'error' in round
        ? { fault: round.error.fault, message: round.error.message, hint: round.error.hint ?? null }
        : null,
  };
  const { schemaVersion, ...rest } = document;
  return { schemaVersion, text: textOf(document), ...rest };
}

const fails = ({ verdict }: CellResult): boolean => verdict === 'failed' || verdict === 'error';

function builtNow(cell: CellResult): Notification['built'] {
  const { module, version, kernel, distro, arch, verdict, reason } = cell;
  if (verdict !== 'built' || cell.package === null || reason === 'up to date') return [];
  return [{ module, version, kernel, distro, arch, package: basename(cell.package) }];
}

const failing = ({ module, version, kernel, distro, arch, verdict, reason, log }: CellResult) => ({
  ...{ module, version, kernel, distro, arch, verdict, reason, log },
});

function heldBack({ name, follows, distro, kernel, held }: MetapackageResult): HeldBack[] {
  if (!held) return [];
  const { release: waitsFor, packageVersion: version, why } = held;
  return [{ package: name, follows, distro, kernel, waitsFor, version, why }];
}

/** What is known at the other end once the document has arrived. Of a round that broke off nothing but that. */
function stateAfter(round: Round, { held }: Notification, told: Told): Told {
  const { to } = told;
  if ('error' in round) return { ...told, error: round.error.fault, unsent: [] };
  return {
    ...{ ...NOTHING, to },
    failing: round.cells.filter(fails).map(placeOf),
    held: round.metapackages ? held.map(heldOf) : told.held,
  };
}

const isNews = ({ built, failing: failed }: Notification, now: Told, told: Told): boolean =>
  built.length > 0 ||
  failed.length > 0 ||
  now.error !== told.error ||
  JSON.stringify(now.held) !== JSON.stringify(told.held);

const MOST_LINES = 20;

function textOf({
  host,
  repository,
  built,
  failing: failed,
  held,
  error,
}: Omit<Notification, 'text'>): string {
  const first = (text: string | null): string =>
    (text ?? '').split('\n').find((line) => line.trim() !== '') ?? '';
  const counts = [
    ...(built.length > 0 ? [`${built.length} built`] : []),
    ...(failed.length > 0 ? [`${failed.length} newly failing`] : []),
    ...(held.length > 0 ? [`${plural(held.length, 'kernel')} held back`] : []),
    ...(error ? ['the round ended early'] : []),
  ];
  const lines = [
    `dkms2bin on ${host}, ${repository}: ${counts.join(', ') || 'all is well again'}`,
    ...failed.map(
      (each) => `${each.verdict}: ${each.module} on ${each.kernel} (${each.distro}): ${first(each.reason)}`,
    ),
    ...held.map(
      (each) => `held: ${each.package} waits for ${each.waitsFor} (${each.distro}): ${first(each.why)}`,
    ),
    ...built.map((each) => `built: ${each.package}`),
    ...(error ? [`${first(error.message)}`] : []),
  ];
  const more = lines.length > MOST_LINES ? [`and ${lines.length - MOST_LINES} more`] : [];
  return [...lines.slice(0, MOST_LINES).map((line) => oneLine(line).slice(0, 300)), ...more].join('\n');
}

/** Another receiver knows of nothing. */
async function readTold(outDir: string, to: string): Promise<Told> {
  const text = await readFile(toldPath(outDir), 'utf8').catch(() => '');
  try {
    const told = Told.parse(JSON.parse(text));
    if (told.to === to) return told;
  } catch {
    // None yet, or damaged: the worst is that something is told twice.
  }
  return { ...NOTHING, to };
}

async function writeTold(outDir: string, told: Told): Promise<void> {
  await writeAtomic(Buffer.from(`${JSON.stringify(told, null, 2)}\n`), toldPath(outDir));
}
