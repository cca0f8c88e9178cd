import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { serve, type Served } from './official.js';

/** A forward proxy, and what went through it. */
export interface Proxy extends Served {
  /** By program, as it names itself: the URLs that it asked for, of https the host and port. */
  asked: { agent: string; url: string }[];
}

/** Forwards http requests and tunnels, as squid does. */
export async function forwardProxy(host: string): Promise<Proxy> {
  const asked: Proxy['asked'] = [];
  const note = (url = '', agent = ''): void => void asked.push({ agent, url });
  const served = await serve((incoming, response) => {
    note(incoming.url, incoming.headers['user-agent']);
    const { 'proxy-connection': _, ...headers } = incoming.headers;
    const { method } = incoming;
    const outgoing = request(incoming.url ?? '', { method, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    outgoing.on('error', () => response.destroy());
    incoming.pipe(outgoing);
  }, host);
  served.server.on('connect', ({ url = '', headers }, client: Socket) => {
    note(url, headers['user-agent']);
    const { hostname, port } = new URL(`http://${url}`);
    const server = connect(Number(port) || 443, hostname, () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      server.pipe(client).pipe(server);
    });
    server.on('error', () => client.destroy());
    client.on('error', () => server.destroy());
  });
  return { ...served, asked };
}
