/** Removes C0 (but tab), C1, ESC sequences and bidi controls: a guest's text is shown, never obeyed. */
export function plain(text: string): string {
  return text

    .replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]/g, '')

    .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '');
}

/** Text of a guest or of a file name on one line: no control bytes, no line breaks; blanks of a path stay. */
export function oneLine(text: string): string {
  return plain(text).replace(/[\t\n\u2028\u2029]/g, ' ');
}

/** Quotes for a POSIX shell. */
export function quote(value: string): string {
  return `'${value.replaceAll("'", `'\\''`)}'`;
}

/** `1 cell`, `2 cells`. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** The one of `words` that was probably meant: other signs or capitals between its letters, or up to two letters wrong. */
export function closest(meant: string, words: readonly string[]): string | undefined {
  const bare = (word: string): string => word.toLowerCase().replaceAll(/[^a-z0-9]/g, '');
  const far = (word: string): number => (bare(word) === bare(meant) ? 0 : distance(word, meant));
  const [first] = words
    .map((word) => ({ word, far: far(word) }))
    .filter((each) => each.far <= Math.min(2, meant.length - 1))
    .sort((a, b) => a.far - b.far);
  return first?.word;
}

/** Levenshtein. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1)
      next[j] = Math.min(
        (row[j] ?? 0) + 1,
        (next[j - 1] ?? 0) + 1,
        (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    row = next;
  }
  return row[b.length] ?? 0;
}
