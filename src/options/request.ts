import { Dkms2binError } from '../model/errors.js';
import { cleaned } from '../lib/credentials.js';
import type { Option } from './option.js';
import { fieldOf, OPTIONS, type FieldOf, type Row, type ValuesOf } from './table.js';

type RequestRow = Extract<Row, { request: true }>;

/**
 * What the user asked for, after config file and command line are merged: the values of the table's options that ask
 * something of the engine. Paths are as typed, relative to `cwd`; `memoryMiB` in MiB, `timeoutSeconds` in seconds; no kernels
 * means `latest`.
 */
export type BuildRequest = { [K in keyof ValuesOf<RequestRow>]: ValuesOf<RequestRow>[K] } & { cwd: string };

/** Any field of a request; one that is undefined counts as not given. */
export type RequestValues = { [K in keyof BuildRequest]?: BuildRequest[K] | undefined };

const ROWS: readonly Option[] = OPTIONS.filter((row: Option) => row.request === true);
const FIELDS = new Set(['cwd', ...ROWS.map(fieldOf)]);
const DEFAULTS = Object.fromEntries(
  ROWS.filter((row) => row.fallback !== undefined).map((row) => [fieldOf(row), row.fallback]),
);

/** A request with the command line's defaults for what is not given; `cwd` is the process's. */
export function buildRequest(values: RequestValues): BuildRequest {
  const given = Object.entries(values).filter(([field, value]) => value !== undefined && FIELDS.has(field));
  const clean = given.map(([field, value]) => [field, cleaned(value)]);
  return { ...DEFAULTS, cwd: process.cwd(), ...Object.fromEntries(clean) } as BuildRequest;
}

/** What a command is asked of the engine: its options' values, others left aside. */
export const requestOf = (options: RequestValues & object, cwd: string): BuildRequest =>
  buildRequest({ ...options, cwd });

type IdentityRow = Extract<Row, { identity: true }>;

/**
 * The options of a request that decide what comes out of a cell, beside its source and kernel, by name and in the order of
 * the names. (Whether it is built twice does not: that says more of the same packages.)
 */
export function identityOptions(
  request: Pick<BuildRequest, FieldOf<IdentityRow>>,
): Readonly<Record<string, unknown>> {
  const values = request as Readonly<Record<string, unknown>>;
  const rows: Option[] = OPTIONS.filter((row: Option) => row.identity === true);
  const named = rows.map((row): [string, unknown] => [row.name, values[fieldOf(row)]]);
  return Object.fromEntries(named.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Throws fault `usage` for a key without its certificate, or the other way round. */
export function requirePair({ signKey, signCert }: Pick<BuildRequest, 'signKey' | 'signCert'>): void {
  if ((signKey === undefined) === (signCert === undefined)) return;
  throw new Dkms2binError('usage', `--sign-${signKey === undefined ? 'key' : 'cert'} is missing`, {
    hint: 'Signing needs both --sign-key and --sign-cert; dkms2bin keygen makes a pair.',
  });
}
