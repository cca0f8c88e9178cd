import { got, RequestError, type Response } from 'got';
import { Dkms2binError } from '../../model/errors.js';
import { redact } from '../credentials.js';
import { proxyOptions } from '../proxy.js';
import { interrupted, Passing, type Net } from './net.js';

export interface Question {
  url: string;
  headers?: Readonly<Record<string, string>>;
  /** Silence of the server, in ms, that counts as a cut connection. */
  stallMs: number;
  /** Refuses to be redirected from https to http. */
  secure?: boolean;
  /** Posted as JSON, to this URL and no other: a redirect is an answer. */
  json?: string;
  /** What errors call the URL, when it is a secret itself. */
  shown?: string;
}

/** One request whose body has not been read yet. */
export interface Answer extends Disposable {
  readonly response: Response;
  /** The body, as the server sent it. Throws when the connection is cut or silent. */
  chunks(): AsyncGenerator<Buffer>;
}

/** Asks once, without retries: what may be better the next time is thrown as Passing. */
export async function ask(question: Question, net: Pick<Net, 'signal' | 'proxy'>): Promise<Answer> {
  if (net.signal?.aborted) throw interrupted();
  const { url, stallMs } = question;
  const shown = question.shown ?? url;
  const stream = openStream(question, net.proxy);
  // got wraps what destroys it, so the true reason is kept here.
  let reason: Error | undefined;
  const end = (error: Error): void => {
    reason ??= error;
    stream.destroy(error);
  };
  let timer: NodeJS.Timeout | undefined;
  const disarm = (): void => clearTimeout(timer);
  const arm = (): void => {
    disarm();
    const silent = new Passing(`${redact(shown)}: the server was silent for ${stallMs / 1000} s`);
    timer = setTimeout(() => end(silent), stallMs);
  };
  const abort = (): void => end(interrupted());
  net.signal?.addEventListener('abort', abort, { once: true });
  const close = (): void => {
    disarm();
    net.signal?.removeEventListener('abort', abort);
    stream.destroy();
  };
  const wrong = (error: unknown): Error => {
    close();
    return networkError(shown, reason ?? error);
  };
  async function* chunks(): AsyncGenerator<Buffer> {
    const reader = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    try {
      for (;;) {
        // Armed only while the network is waited for: a slow disk is not the server's silence.
        arm();
        const next = await reader.next();
        disarm();
        if (next.done) return;
        yield next.value;
      }
    } catch (error) {
      throw wrong(error);
    } finally {
      close();
    }
  }
  // Also keeps an error between two reads from ending the process.
  stream.on('error', disarm);
  stream.on('redirect', arm);
  arm();
  try {
    const response = await new Promise<Response>((resolve, reject) => {
      stream.once('response', resolve);
      stream.once('error', reject);
      stream.once('close', () => reject(new Passing(`${redact(shown)}: closed without an answer`)));
    });
    disarm();
    return { response, chunks, [Symbol.dispose]: close };
  } catch (error) {
    throw wrong(error);
  }
}

function openStream({ url, headers, secure, json }: Question, proxy: string | undefined) {
  const type = json === undefined ? {} : { 'content-type': 'application/json' };
  return got.stream(url, {
    ...(json !== undefined && { method: 'POST', body: json, followRedirect: false }),
    headers: { 'user-agent': 'dkms2bin', 'accept-encoding': 'identity', ...type, ...headers },
    decompress: false,
    throwHttpErrors: false,
    retry: { limit: 0 },
    ...proxyOptions(url, proxy),
    hooks: {
      beforeRedirect: [
        (next) => {
          if (secure && url.startsWith('https:') && new URL(String(next.url)).protocol !== 'https:') {
            const to = redact(String(next.url));
            throw new Dkms2binError('transient', `${redact(url)} redirects to plain http: ${to}`);
          }
        },
      ],
    },
  });
}

/** Bytes that the server says will come, undefined when it does not say. */
export function lengthOf(response: Response): number | undefined {
  const length = response.headers['content-length'];
  return length !== undefined && /^\d+$/.test(length) ? Number(length) : undefined;
}

export function tooLarge(url: string, maxBytes: number): Dkms2binError {
  return new Dkms2binError(
    'transient',
    `${redact(url)} sends more than it should (limit ${maxBytes} bytes)`,
    {
      hint: 'Check the URL, or use another server (--mirror).',
    },
  );
}

/** What a status other than success means: `not-found`, worth another try (Passing), or `transient` for good. */
export function httpError(url: string, response: Response): Error {
  const { statusCode } = response;
  const via = response.url && response.url !== url ? ` (from ${redact(response.url)})` : '';
  return statusError(
    `${redact(url)}: HTTP ${statusCode} ${response.statusMessage ?? ''}`.trim() + via,
    response,
  );
}

export function statusError(text: string, { statusCode, headers }: Response): Error {
  if (statusCode === 404 || statusCode === 410) return new Dkms2binError('not-found', text);
  if ([408, 425, 429].includes(statusCode) || statusCode >= 500) {
    const after = Number(headers['retry-after']);
    return new Passing(text, Number.isFinite(after) ? after * 1000 : 0);
  }
  return new Dkms2binError('transient', text);
}

function networkError(url: string, error: unknown): Error {
  if (error instanceof Passing || error instanceof Dkms2binError) return error;
  if (!(error instanceof RequestError)) return error instanceof Error ? error : new Error(String(error));
  if (error.cause instanceof Dkms2binError || error.cause instanceof Passing) return error.cause;
  const text = `${redact(url)}: ${error.message || error.code}`;
  if (/CERT|ISSUER|LEAF_SIGNATURE/.test(error.code)) {
    return new Dkms2binError('host', text, {
      hint: "The server's certificate is not trusted here: check the clock, or name your proxy's CA in NODE_EXTRA_CA_CERTS.",
      cause: error,
    });
  }
  if (/^ERR_(TOO_MANY_REDIRECTS|INVALID_URL|UNSUPPORTED_PROTOCOL)$/.test(error.code)) {
    return new Dkms2binError('transient', text, { cause: error });
  }
  return new Passing(text, 0, { cause: error });
}
