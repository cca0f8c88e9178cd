/** User and password of a URL. They live here and nowhere else: see `withoutCredentials`. */
export interface Credentials {
  username: string;
  password: string;
}

/** By the URL that they were in, up to its last slash at the end. */
const known = new Map<string, Credentials>();

/**
 * A URL as it may be shown, logged, stored and handed on: its user and password are taken off and remembered in this process's
 * memory alone, for requests to that URL and below it. Whatever brings URLs in from outside goes through this; what is no URL stays.
 */
export function withoutCredentials(url: string): string {
  if (!/^https?:\/\/[^/]*@/i.test(url) || !URL.canParse(url)) return url;
  const parsed = new URL(url);
  const { username, password } = parsed;
  const clean = redact(url);
  known.set(prefixOf(clean), {
    username: decodeURIComponent(username),
    password: decodeURIComponent(password),
  });
  return clean;
}

/** User and password for a request to `url`: of the longest URL that it is below. */
export function credentialsFor(url: string): Credentials | undefined {
  let best = '';
  for (const prefix of known.keys()) {
    if (prefix.length > best.length && isBelow(url, prefix)) best = prefix;
  }
  return known.get(best);
}

/** `…/debian-security` lies beside `…/debian` and has its password; another host, whose name begins so, has not. */
const isBelow = (url: string, prefix: string): boolean =>
  url === prefix ||
  url.startsWith(`${prefix}/`) ||
  (new URL(prefix).pathname !== '/' && url.startsWith(`${prefix}-security/`));

const prefixOf = (url: string): string => url.replace(/\/+$/, '');

/** The URL without its user and password, of which none are remembered. */
export function redact(url: string): string {
  if (!URL.canParse(url)) return url;
  const clean = new URL(url);
  clean.username = '';
  clean.password = '';
  // As it was written: a slash that URL adds would make another name of it.
  return url.replace(/\/$/, '') === url ? clean.href.replace(/\/$/, '') : clean.href;
}

/** As `withoutCredentials`, for every text in a value. */
export function cleaned<T>(value: T): T {
  if (typeof value === 'string') return withoutCredentials(value) as T;
  return Array.isArray(value) ? (value.map(cleaned) as T) : value;
}
