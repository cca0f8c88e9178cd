import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { Redis, type RedisOptions } from 'ioredis';
import { createRedisBackend, type BackendFactory, type RedisQueueBackend } from 'bullmq';
import { Dkms2binError } from '../../model/errors.js';
import type { Emit } from '../../model/events.js';
import { variable } from '../../lib/variables.js';

/** Environment variable with Redis' password, which so stays out of the list of processes. */
export const PASSWORD_VARIABLE = 'DKMS2BIN_QUEUE_PASSWORD';

const CA_HINT =
  'Name the PEM file of the authority that signed the certificate of the server: rediss://…?ca=FILE.';

/** How to reach Redis or Valkey. `label` names it without the password. */
export interface Address {
  label: string;
  options: RedisOptions;
}

/** `redis://`, `rediss://` (TLS) or `unix:/path`, with user, password and number of the database. Throws fault `usage`. */
export function parseAddress(url: string): Address {
  const wrong = (): Dkms2binError =>
    new Dkms2binError(
      'usage',
      `--queue: not the address of a Redis server: ${url.replace(/\/\/[^@]*@/, '//')}`,
      {
        hint: 'For example redis://queue.example:6379, rediss://… for TLS, or unix:/run/redis/redis.sock.',
      },
    );
  if (!URL.canParse(url)) throw wrong();
  const { protocol, hostname, port, username, password, pathname, searchParams } = new URL(url);
  const secret = decodeURIComponent(password) || variable(PASSWORD_VARIABLE);
  const user = decodeURIComponent(username);
  const access = { ...(user !== '' && { username: user }), ...(secret && { password: secret }) };
  if (protocol === 'unix:') {
    if (!pathname.startsWith('/')) throw wrong();
    const path = decodeURIComponent(pathname);
    const db = Number(searchParams.get('db') ?? 0);
    return { label: `unix:${path}`, options: { path, db, ...access } };
  }
  const db = pathname === '' || pathname === '/' ? 0 : Number(pathname.slice(1));
  if (!['redis:', 'rediss:'].includes(protocol) || hostname === '' || !Number.isInteger(db)) throw wrong();
  const host = hostname.replace(/^\[|\]$/g, '');
  const ca = searchParams.get('ca');
  return {
    label: `${protocol}//${hostname}:${port || 6379}${db === 0 ? '' : `/${db}`}`,
    options: {
      host,
      port: Number(port || 6379),
      db,
      ...access,
      // TLS has no name to send for a bare address.
      ...(protocol === 'rediss:' && {
        tls: { ...(isIP(host) === 0 && { servername: host }), ...(ca && { ca: authority(ca) }) },
      }),
    },
  };
}

function authority(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Dkms2binError(
      'usage',
      `--queue: no certificate of its authority: ${(error as Error).message}`,
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
    const { code, message } = error as NodeJS.ErrnoException;
    const refused = /NOAUTH|WRONGPASS|invalid password|NOPERM/i.test(message);
    const untrusted = /certificate|altnames/i.test(message);
    throw new Dkms2binError(
      refused || untrusted ? 'usage' : 'transient',
      `No queue at ${label}: ${message || code}`,
      {
        hint: refused
          ? `Put the password into the URL or into ${PASSWORD_VARIABLE}.`
          : untrusted
            ? CA_HINT
            : 'Check the address, and that Redis or Valkey runs there.',
      },
    );
  }
  reached = true;
  return redis;
}

/** BullMQ's workers here fetch jobs one by one and never block: the blocking connection that each would open is left out. */
export const unblocking: BackendFactory<RedisQueueBackend> = (name, options) =>
  createRedisBackend(name, options);
