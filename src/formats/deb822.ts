/** A field of a paragraph. */
export interface Field {
  /** As it is written; names are equal in any case. */
  name: string;
  /** What follows the colon; continuation lines after a line end each, without their first blank. */
  value: string;
  /** The field as it stands there, continuation lines included, without blanks at the ends of lines. */
  text: string;
}

/** A paragraph of deb822(5): a package of a Packages file, a control file, a source of apt. */
export class Paragraph {
  constructor(readonly fields: readonly Field[]) {}

  /** The value of a field, undefined when there is none. */
  get(name: string): string | undefined {
    const wanted = name.toLowerCase();
    return this.fields.find((field) => field.name.toLowerCase() === wanted)?.value;
  }
}

/** Makes the error for a paragraph that is not in order, from what is wrong with it. */
type Refuse = (why: string) => Error;

const FIELD = /^([A-Za-z0-9][\x21-\x39\x3b-\x7e]*)[ \t]*:[ \t]*(.*)$/s;

/**
 * Reads one paragraph. With `refuse`, a line that belongs to no field and a field that comes twice are errors; without
 * it, as when an index is searched, the one is passed over and of the other the first counts.
 */
export function parseParagraph(text: string, refuse?: Refuse): Paragraph {
  const fields: Field[] = [];
  for (const line of text.replace(/^\n+|\n+$/g, '').split('\n')) {
    if (line.startsWith('#')) continue;
    if (refuse && line.trim() === '') throw refuse('an empty line');
    const last = fields.at(-1);
    if (/^[ \t]/.test(line) && last) {
      last.value += `\n${line.slice(1).trimEnd()}`;
      last.text += `\n${line.trimEnd()}`;
      continue;
    }
    const [, name, value = ''] = FIELD.exec(line) ?? [];
    if (name === undefined) {
      if (refuse) throw refuse('a line is not a field');
      continue;
    }
    if (refuse && fields.some((field) => field.name.toLowerCase() === name.toLowerCase()))
      throw refuse(`${name} twice`);
    fields.push({ name, value: value.trimEnd(), text: line.trimEnd() });
  }
  return new Paragraph(fields);
}

/** All paragraphs of a file that people or programs wrote. */
export function parseParagraphs(text: string): Paragraph[] {
  return text
    .replace(/^#.*\n?/gm, '')
    .split(/\n(?:[ \t]*\n)+/)
    .map((each) => parseParagraph(each))
    .filter(({ fields }) => fields.length > 0);
}

/** Of a real one a few kB are usual. A gigabyte would be more than a string holds. */
const MAX_PARAGRAPH_BYTES = 4 << 20;

/** The paragraphs in which `marker` stands, but for one of megabytes: a Packages file has tens of MB, of which few paragraphs matter. */
export function* paragraphsWith(bytes: Buffer, marker: string): Generator<Paragraph> {
  for (let at = bytes.indexOf(marker); at >= 0;) {
    const start = bytes.lastIndexOf('\n\n', at);
    const end = bytes.indexOf('\n\n', at);
    const [from, to] = [start < 0 ? 0 : start + 2, end < 0 ? bytes.length : end];
    if (to - from <= MAX_PARAGRAPH_BYTES) yield parseParagraph(bytes.toString('utf8', from, to));
    at = end < 0 ? -1 : bytes.indexOf(marker, end);
  }
}

/** What an apt archive's Release says of itself and of its files. */
export interface ReleaseFile {
  /** Seconds since 1970, undefined without a valid Date. */
  date: number | undefined;
  /** Whether its files can be asked for by their digests. */
  byHash: boolean;
  /** By their paths, as its SHA256 field has them. */
  files: Map<string, { sha256: string; size: number }>;
}

/** Reads a Release, or the text of an InRelease with or without its armour. Checks no signature. */
export function parseReleaseFile(text: string): ReleaseFile {
  const paragraph = parseParagraph(withoutArmour(text));
  const date = Date.parse(paragraph.get('Date') ?? '');
  const files: ReleaseFile['files'] = new Map();
  for (const line of (paragraph.get('SHA256') ?? '').split('\n')) {
    const [, sha256, size, path] = /^\s*([0-9a-f]{64})\s+(\d+)\s+(\S+)$/.exec(line) ?? [];
    if (sha256 !== undefined && path !== undefined) files.set(path, { sha256, size: Number(size) });
  }
  return {
    date: Number.isNaN(date) ? undefined : date / 1000,
    byHash: paragraph.get('Acquire-By-Hash') === 'yes',
    files,
  };
}

function withoutArmour(text: string): string {
  const plain = text.replaceAll('\r\n', '\n');
  const signed =
    /^-----BEGIN PGP SIGNED MESSAGE-----\n(?:[^\n]+\n)*\n([\s\S]*?)\n-----BEGIN PGP SIGNATURE-----/.exec(
      plain,
    );
  return signed ? (signed[1] ?? '').replace(/^- /gm, '') : plain;
}
