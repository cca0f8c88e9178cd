/** Removes C0 (but tab), C1, ESC sequences and bidi controls: a guest's text is shown, never obeyed. */
export function plain(text: string): string {
  return text

    .replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]/g, '')

    .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '');
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
