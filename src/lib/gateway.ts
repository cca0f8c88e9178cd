import { randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { pipeline } from 'node:stream';
import { got } from 'got';
import { credentialsFor, withoutCredentials } from './credentials.js';
import { proxyFromEnv, proxyOptions } from './proxy.js';

export interface Gateway extends AsyncDisposable {
  /** The proxy's URL, for who sees this host's loopback as `host`. What it holds is worth nothing once this is disposed. */
  url(host: string): string;
}

/** What a proxy hands on of a request and of an answer. */
const KEPT = ['range', 'if-range', 'if-modified-since', 'cache-control', 'accept', 'user-agent'];
const ANSWERED = [
  'content-type',
  'content-length',
  'content-range',
  'accept-ranges',
  'last-modified',
  'etag',
];

/**
 * An HTTP proxy on this host's loopback for a guest, or a sandbox, that downloads packages and shall hold no password: this adds those
 * of mirror, archive and of the proxy behind it. It asks for a word that only its own client knows. A URL whose password belongs to
 * https is asked for as http and fetched by https.
 */
export async function openGateway(proxy: string | undefined): Promise<Gateway> {
  const word = randomBytes(18).toString('base64url');
  const expected = Buffer.from(`Basic ${Buffer.from(`dkms2bin:${word}`).toString('base64')}`);
  const admitted = (request: IncomingMessage): boolean => {
    const given = Buffer.from(request.headers['proxy-authorization'] ?? '');
    return given.length === expected.length && timingSafeEqual(given, expected);
  };
  const open = new Set<Socket>();
  const server = createServer((request, response) => {
    if (!admitted(request)) response.writeHead(407, { 'proxy-authenticate': 'Basic realm="dkms2bin"' }).end();
    else hand(request, response, proxy);
  });
  server.on('connection', (socket) => {
    open.add(socket);
    socket.on('error', () => undefined).on('close', () => open.delete(socket));
  });
  server.on('connect', (request, socket: Socket) => {
    if (!admitted(request)) return void socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
    tunnel(request.url ?? '', socket, proxy);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: (host) => `http://dkms2bin:${word}@${host}:${port}`,
    [Symbol.asyncDispose]: async () => {
      for (const socket of open) socket.destroy();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}

/** How a URL is called in a guest: one with a password by http, for this to see what is asked for. */
export const guestUrl = (url: string): string =>
  url.startsWith('https://') && credentialsFor(url) ? `http://${url.slice('https://'.length)}` : url;

function hand(request: IncomingMessage, response: ServerResponse, proxy: string | undefined): void {
  const asked = request.url ?? '';
  const secure = asked.replace(/^http:/, 'https:');
  const url = credentialsFor(secure) ? secure : asked;
  if (!/^https?:\/\//.test(url) || !URL.canParse(url) || !['GET', 'HEAD'].includes(request.method ?? '')) {
    response.writeHead(400).end();
    return;
  }
  const stream = got.stream(url, {
    method: request.method === 'HEAD' ? 'HEAD' : 'GET',
    headers: Object.fromEntries(
      KEPT.flatMap((name) => (request.headers[name] ? [[name, request.headers[name]]] : [])),
    ),
    decompress: false,
    throwHttpErrors: false,
    retry: { limit: 0 },
    timeout: { connect: 30_000, socket: 120_000 },
    ...proxyOptions(url, proxy),
  });
  stream.once('response', ({ statusCode, headers }: IncomingMessage) => {
    const kept = ANSWERED.flatMap((name) => (headers[name] === undefined ? [] : [[name, headers[name]]]));
    response.writeHead(statusCode ?? 502, Object.fromEntries(kept) as Record<string, string>);
    pipeline(stream, response, () => undefined);
  });
  stream.on('error', () => {
    if (response.headersSent) response.destroy();
    else response.writeHead(502).end();
  });
  response.on('close', () => stream.destroy());
}

/** Bytes to and from `target`, HOST:PORT, of which nothing is seen. */
function tunnel(target: string, client: Socket, proxy: string | undefined): void {
  const [, host = '', port = '443'] = /^\[?([^\]]+?)\]?(?::(\d+))?$/.exec(target) ?? [];
  const behind = proxy ?? proxyFromEnv(`https://${target}`);
  const join = (server: Socket): void => {
    client.write('HTTP/1.1 200 Connection established\r\n\r\n');
    pipeline(client, server, client, () => {
      server.destroy();
      client.destroy();
    });
  };
  const fail = (): void => void client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
  if (!behind) {
    const server = connect(Number(port), host, () => join(server)).on('error', fail);
    return;
  }
  const clean = withoutCredentials(behind);
  const { protocol, hostname, port: proxyPort } = new URL(clean);
  const login = credentialsFor(clean);
  const headers = login && {
    'proxy-authorization': `Basic ${Buffer.from(`${login.username}:${login.password}`).toString('base64')}`,
  };
  const ask = protocol === 'https:' ? httpsRequest : httpRequest;
  ask({
    host: hostname,
    port: proxyPort || undefined,
    method: 'CONNECT',
    path: target,
    ...(headers && { headers }),
  })
    .on('connect', ({ statusCode }, server) => (statusCode === 200 ? join(server) : fail()))
    .on('error', fail)
    .end();
}
