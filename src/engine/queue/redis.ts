import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { Redis, type RedisOptions } from 'ioredis';
import { createRedisBackend, type BackendFactory, type RedisQueueBackend } from 'bullmq';
import { Dkms2binError } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';
import { variable } from '../../lib/variables.js';

/** Environment variable with Redis' password, which so stays out of the list of processes. */
const PASSWORD_VARIABLE = 'DKMS2BIN_QUEUE_PASSWORD';

const CA_HINT =
  'Name the PEM file of the authority that signed the certificate of the server: rediss://…?ca=FILE.';

/** How to reach Redis or Valkey. `label` names it without the password. */
export interface Address {
  label: string;
  options: RedisOptions;
}

/** `redis://`, `rediss://` (TLS) or `unix:/path`, with user, password and number of the database. Throws fault `usage`. */
export function parseAddress(url: string, env?: NodeJS.ProcessEnv): Address {
  const parsed = URL.canParse(url) ? new URL(url) : null;
  const address = parsed && (parsed.protocol === 'unix:' ? socketAddress(parsed) : serverAddress(parsed));
  if (!parsed || !address) {
    throw new Dkms2binError(
      'usage',
      `--queue: not the address of a Redis server: ${url.replace(/\/\/[^@]*@/, '//')}`,
      {
        hint: 'For example redis://queue.example:6379, rediss://… for TLS, or unix:/run/redis/redis.sock.',
      },
    );
  }
  return { ...address, options: { ...address.options, ...accessOf(parsed, env) } };
}

/** User and password. */
function accessOf({ username, password }: URL, env?: NodeJS.ProcessEnv): RedisOptions {
  const secret = decodeURIComponent(password) || variable(PASSWORD_VARIABLE, env);
  return {
    ...(username !== '' && { username: decodeURIComponent(username) }),
    ...(secret && { password: secret }),
  };
}

/** Null for what is no address of a socket. */
function socketAddress({ pathname, searchParams }: URL): Address | null {
  if (!pathname.startsWith('/')) return null;
  const path = decodeURIComponent(pathname);
  return { label: `unix:${path}`, options: { path, db: Number(searchParams.get('db') ?? 0) } };
}

/** Null for what is no address of a server. */
function serverAddress({ protocol, hostname, port, pathname, searchParams }: URL): Address | null {
  const db = Number(pathname.slice(1));
  if (!['redis:', 'rediss:'].includes(protocol) || hostname === '' || !Number.isInteger(db)) return null;
  const host = hostname.replace(/^\[|\]$/g, '');
  return {
    label: `${protocol}//${hostname}:${port || 6379}${db === 0 ? '' : `/${db}`}`,
    options: {
      ...{ host, port: Number(port || 6379), db },
      ...(protocol === 'rediss:' && { tls: tlsOf(host, searchParams.get('ca')) }),
    },
  };
}

/** TLS has no name to send for a bare address. */
const tlsOf = (host: string, ca: string | null): NonNullable<RedisOptions['tls']> => ({
  ...(isIP(host) === 0 && { servername: host }),
  ...(ca && { ca: authority(ca) }),
});

function authority(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Dkms2binError(
      'usage',
      `--queue: the certificate of its authority cannot be read: ${(error as Error).message}`,
      {
        hint: CA_HINT,
      },
    );
  }
}

/**
 * A connection that comes back by itself: what is asked of it waits for that. Throws fault `transient` when the server cannot
 * be reached at first, `usage` when it does not let us in.
 */
export async function connect({ label, options }: Address, emit: Emit): Promise<Redis> {
  const redis = new Redis({
    ...options,
    lazyConnect: true,
    // BullMQ wants it so: commands outlive a restart of the server.
    maxRetriesPerRequest: null,
    retryStrategy: (times) => Math.min(100 * 2 ** Math.min(times, 6), 5000),
    reconnectOnError: (error) => /^(LOADING|READONLY)/.test(error.message),
  });
  let reached = false;
  let away = false;
  redis.on('error', () => {
    if (!reached || away) return;
    away = true;
    emit({
      type: 'note',
      level: 'warn',
      message: `Lost the connection to ${label}; trying again until it is back`,
    });
  });
  redis.on('ready', () => {
    if (away) emit({ type: 'note', level: 'info', message: `Connected to ${label} again` });
    away = false;
  });
  try {
    await Promise.race([
      redis.connect().then(() => redis.ping()),
      new Promise((_, reject) => redis.once('error', reject)),
    ]);
  } catch (error) {
    redis.disconnect();
    throw unreachable(label, error as NodeJS.ErrnoException);
  }
  reached = true;
  return redis;
}

/** What may keep us from a server, by what it says: fault and next step. The last fits everything. */
const TROUBLES: { says: RegExp; fault: 'usage' | 'transient'; hint: string }[] = [
  {
    says: /NOAUTH|WRONGPASS|invalid password|NOPERM/i,
    fault: 'usage',
    hint: `Put the password into the URL or into ${PASSWORD_VARIABLE}.`,
  },
  { says: /certificate|altnames/i, fault: 'usage', hint: CA_HINT },
  { says: /(?:)/, fault: 'transient', hint: 'Check the address, and that Redis or Valkey runs there.' },
];

function unreachable(label: string, { code, message }: NodeJS.ErrnoException): Dkms2binError {
  const trouble = TROUBLES.find(({ says }) => says.test(message));
  return new Dkms2binError(trouble?.fault ?? 'transient', `No queue at ${label}: ${message || code}`, {
    ...(trouble && { hint: trouble.hint }),
  });
}

/** BullMQ's workers here fetch jobs one by one and never block: the blocking connection that each would open is left out. */
export const unblocking: BackendFactory<RedisQueueBackend> = (name, options) =>
  createRedisBackend(name, options);
