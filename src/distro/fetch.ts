import { got, HTTPError } from 'got';
import type { z } from 'zod';
import { proxyOptions } from '../lib/proxy.js';
import { Dkms2binError, messageOf } from '../model/errors.js';
import { proxyFor } from './mirrors.js';

/** How indexes and archives are reached. */
export interface Reach {
  signal?: AbortSignal | undefined;
  /** URL of an HTTP proxy, '' for none. By default the one of this host's apt, else what the environment says. */
  proxy?: string | undefined;
}

const MAX_JSON_BYTES = 8 << 20;
/** S3 says 403 for what is not there. */
const NOT_THERE = [403, 404, 410];
/** Without ENOTFOUND and ECONNREFUSED: an archive that is shut off from this host answers so at once. */
const RETRIED = ['ETIMEDOUT', 'ECONNRESET', 'EPIPE', 'EAI_AGAIN'];

/** Bytes at `url`, undefined when there is nothing. Throws `transient` or `interrupted`. */
export async function fetchBytes(url: string, limit: number, reach: Reach): Promise<Buffer | undefined> {
  try {
    const request = got(url, {
      responseType: 'buffer',
      ...proxyOptions(url, await proxyFor(reach.proxy)),
      timeout: { connect: 15_000, response: 30_000, socket: 30_000, request: 600_000 },
      retry: { limit: 2, backoffLimit: 3000, maxRetryAfter: 10_000, errorCodes: RETRIED },
      ...(reach.signal === undefined ? {} : { signal: reach.signal }),
    });
    let tooLarge = false;
    void request.on('downloadProgress', (progress) => {
      if (progress.transferred <= limit || tooLarge) return;
      tooLarge = true;
      (request as unknown as { cancel(): void }).cancel();
    });
    try {
      return (await request).body;
    } catch (error) {
      if (tooLarge)
        throw new Error(`the answer is larger than the ${limit} bytes expected`, { cause: error });
      throw error;
    }
  } catch (error) {
    if (reach.signal?.aborted) throw new Dkms2binError('interrupted', 'Interrupted', { cause: error });
    if (error instanceof Dkms2binError) throw error;
    if (error instanceof HTTPError && NOT_THERE.includes(error.response.statusCode)) return undefined;
    throw new Dkms2binError('transient', `Could not read ${url}: ${messageOf(error)}`, {
      hint: 'Check the network and --proxy, or name another --mirror.',
      cause: error,
    });
  }
}

/** Bytes of what is at `url`, undefined when the server does not say; asks shortly. Rejects when there is nothing, or no answer. */
export async function sizeOf(url: string, reach: Reach): Promise<number | undefined> {
  const { headers } = await got.head(url, {
    ...proxyOptions(url, await proxyFor(reach.proxy)),
    timeout: { request: 8000 },
    retry: { limit: 0 },
    ...(reach.signal && { signal: reach.signal }),
  });
  const length = Number(headers['content-length']);
  return Number.isSafeInteger(length) && length > 0 ? length : undefined;
}

/** Whether there is something at `url`. Throws `transient` or `interrupted`. */
export async function exists(url: string, reach: Reach): Promise<boolean> {
  try {
    const { statusCode } = await got.head(url, {
      ...proxyOptions(url, await proxyFor(reach.proxy)),
      timeout: { connect: 15_000, response: 30_000, request: 60_000 },
      retry: { limit: 1, errorCodes: RETRIED },
      throwHttpErrors: false,
      ...(reach.signal && { signal: reach.signal }),
    });
    if (statusCode < 300) return true;
    if (NOT_THERE.includes(statusCode)) return false;
    throw new Error(`it answered ${statusCode}`);
  } catch (error) {
    if (reach.signal?.aborted) throw new Dkms2binError('interrupted', 'Interrupted', { cause: error });
    throw new Dkms2binError('transient', `Could not request ${url}: ${messageOf(error)}`, {
      hint: 'Check the network and --proxy, or name another --archive.',
      cause: error,
    });
  }
}

/** The JSON at `url` in the form of `schema`, undefined when there is nothing. Throws `transient` for any other form. */
export async function fetchJson<T>(url: string, schema: z.ZodType<T>, reach: Reach): Promise<T | undefined> {
  const bytes = await fetchBytes(url, MAX_JSON_BYTES, reach);
  if (bytes === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw new Dkms2binError('transient', `${url} did not answer with JSON`, { cause: error });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new Dkms2binError('transient', `${url} did not answer in the expected form`, { cause: parsed.error });
}

/** Those of a list from outside that have the form of `schema`. */
export function fitting<T>(items: readonly unknown[], schema: z.ZodType<T>): T[] {
  return items.flatMap((item) => {
    const parsed = schema.safeParse(item);
    return parsed.success ? [parsed.data] : [];
  });
}

const UNREACHABLE = ['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'ENETUNREACH', 'EHOSTUNREACH'];

/** The system's code when an error says that a server cannot even be connected to from this host. */
export function unreachableCode(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    const { code } = at as NodeJS.ErrnoException;
    if (typeof code !== 'string' || !/^E[A-Z_]+$/.test(code) || code.startsWith('ERR_')) continue;
    return UNREACHABLE.includes(code) ? code : undefined;
  }
  return undefined;
}
