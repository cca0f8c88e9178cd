import { z } from 'zod';

// The forms of strings that come from elsewhere: a queue, a store, a guest. Each is strict enough for what such a string may
// become: part of a path, a word of a command, a line of a package manager's file. What has no form of its own is a label.

/** `pattern` says which characters and in which places, `most` how many; `..` is in none of them. */
const form = (pattern: RegExp, most: number, what: string): z.ZodString =>
  z
    .string(`not ${what}`)
    .max(most, `not ${what}: too long`)
    .regex(pattern, `not ${what}`)
    .regex(/^(?!.*\.\.)/s, `not ${what}`);

/** `6.1.0-56-amd64`. */
export const Release = form(/^[0-9][A-Za-z0-9+._~-]*$/, 64, 'a kernel release');

/** A package of a distro, or a DKMS module. */
export const PackageName = form(/^[A-Za-z0-9][A-Za-z0-9+._-]*$/, 128, 'a package name');

/** Of a package or a module. */
export const Version = form(/^[A-Za-z0-9][A-Za-z0-9+._~^:-]*$/, 128, 'a version');

/**
 * A word of an apt source line after its URL: `bookworm-backports`, `stable/updates`.
 * @internal
 */
export const SuiteWord = form(
  /^[A-Za-z0-9][A-Za-z0-9._~-]*(?:\/[A-Za-z0-9][A-Za-z0-9._~-]*)*$/,
  100,
  'a suite',
);

/** Catalogue id, such as `debian-12`. */
export const DistroId = form(/^[a-z0-9][a-z0-9._-]*$/, 64, 'a distro of the catalogue');

/**
 * http or https, in printable ASCII that no shell, sources line or repository file reads another way; no user, no
 * password.
 * @internal
 */
export const HttpUrl = form(
  /^https?:\/\/(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::\d{1,5})?(?:[/?][A-Za-z0-9/?&=+._~%:,@-]*)?$/,
  2048,
  'an http or https URL without user and password',
).refine((url) => URL.canParse(url), 'not an http or https URL');

/**
 * Where a source was fetched: http or https without user and password, or ssh, in characters that a URL has after encoding and that no
 * shell, page or terminal reads another way.
 */
export const SourceUrl = z
  .string()
  .max(2048, 'not the URL of a source: too long')
  .regex(
    /^(?:https?:\/\/[A-Za-z0-9.:[\]-]+(?:[/?#]|$)|ssh:\/\/[A-Za-z0-9_]|[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9])[A-Za-z0-9!#$%&()*+,./:;=?@[\]_~-]*$/,
    'not the URL of a source without user and password',
  );

/** SHA-256, hex. */
export const Sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'not a SHA-256 in hex');

/** A commit of git, by its whole name. */
export const GitCommit = z.string().regex(/^[0-9a-f]{40}(?:[0-9a-f]{24})?$/, 'not a commit');

/** A file's own name, which becomes a path on another machine: no folder, no option, no hidden file. */
export const FileName = form(/^[A-Za-z0-9_][A-Za-z0-9_+.~%:,=@-]*$/, 250, 'a plain file name');

/** A file's name with everything replaced that a plain file name does not have. */
export const plainFileName = (name: string): string =>
  name
    .replaceAll(/[^A-Za-z0-9_+.~%:,=@-]/g, '_')
    .replaceAll(/\.{2,}/g, '.')
    .replace(/^[^A-Za-z0-9_]+/, '')
    .slice(-250) || 'file';

/** Control characters (C0, C1), characters that turn the direction of text or hide, and line separators. */
const OBEYED = String.raw`\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff`;

/** Words for people, on one line. */
export const Label = z
  .string()
  .min(1)
  .max(1000)
  .regex(new RegExp(`^[^${OBEYED}]*$`), 'not a line of plain text');

/** Words for people, on several lines. */
export const Words = z
  .string()
  .max(64 * 1024)
  .regex(new RegExp(`^(?:[\\t\\n]|[^${OBEYED}])*$`), 'not plain text');

/** Text of another program or machine as `Words`: what does not fit is left out. */
export const wordsOf = (text: string): string =>
  text.replaceAll(new RegExp(`(?![\\t\\n])[${OBEYED}]`, 'g'), '').slice(0, 64 * 1024);
