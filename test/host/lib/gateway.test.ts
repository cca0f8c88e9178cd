import { createServer, type IncomingMessage, type Server } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withoutCredentials } from '../../../src/lib/credentials.js';
import { run } from '../../../src/lib/exec.js';
import { openGateway, type Gateway } from '../../../src/lib/gateway.js';

const PASSWORD = 'hunter2';
const basic = (login: string): string => `Basic ${Buffer.from(login).toString('base64')}`;
const servers: Server[] = [];
let gateway: Gateway | undefined;
let seen: IncomingMessage[];

async function listen(server: Server): Promise<number> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

/** A mirror that wants a password. */
const mirror = (): Promise<number> =>
  listen(
    createServer((request, response) => {
      seen.push(request);
      if (request.headers.authorization !== basic(`me:${PASSWORD}`)) response.writeHead(401).end();
      else response.end(`content of ${request.url}`);
    }),
  );

beforeEach(() => {
  seen = [];
});
afterEach(async () => {
  await gateway?.[Symbol.asyncDispose]();
  gateway = undefined;
  for (const server of servers.splice(0)) server.close();
});

/** As a guest's package manager asks; the status and the body. */
async function curl(url: string, proxy: string): Promise<string> {
  const { stdout } = await run(
    'curl',
    ['-sS', '--max-time', '10', '-w', ' %{http_code}', '--proxy', proxy, url],
    {
      env: { no_proxy: '' },
    },
  );
  return stdout;
}

test('the gateway adds the password that its client does not have', async () => {
  const port = await mirror();
  const url = withoutCredentials(`http://me:${PASSWORD}@127.0.0.1:${port}/debian`);
  gateway = await openGateway('');
  expect(await curl(`${url}/dists/x`, gateway.url('127.0.0.1'))).toBe('content of /debian/dists/x 200');
  expect(gateway.url('127.0.0.1')).not.toContain(PASSWORD);
});

test('who does not know its word gets nothing, and nobody gets a password for another place', async () => {
  const port = await mirror();
  const url = withoutCredentials(`http://me:${PASSWORD}@127.0.0.1:${port}/debian`);
  gateway = await openGateway('');
  const { port: own } = new URL(gateway.url('127.0.0.1'));
  expect(await curl(`${url}/x`, `http://dkms2bin:guess@127.0.0.1:${own}`)).toContain('407');
  expect(seen).toHaveLength(0);
  expect(await curl(`http://127.0.0.1:${port}/elsewhere`, gateway.url('127.0.0.1'))).toContain('401');
  expect(seen[0]?.headers.authorization).toBeUndefined();
});

test('a proxy behind it gets its own password, for http and for a tunnel', async () => {
  const port = await mirror();
  const url = withoutCredentials(`http://me:${PASSWORD}@127.0.0.1:${port}/debian`);
  const asked: string[] = [];
  const behind = createServer((request, response) => {
    asked.push(`${request.url} ${request.headers['proxy-authorization']}`);
    response.end('by the proxy');
  });
  behind.on('connect', (request, client) => {
    asked.push(`${request.url} ${request.headers['proxy-authorization']}`);
    const server = connect(port, '127.0.0.1', () => {
      client.write('HTTP/1.1 200 OK\r\n\r\n');
      client.pipe(server).pipe(client);
    });
  });
  const proxy = withoutCredentials(`http://it:${PASSWORD}@127.0.0.1:${await listen(behind)}`);
  gateway = await openGateway(proxy);
  expect(await curl(`${url}/x`, gateway.url('127.0.0.1'))).toBe('by the proxy 200');
  await run('curl', [
    '-sS',
    '--max-time',
    '10',
    '--proxytunnel',
    '--proxy',
    gateway.url('127.0.0.1'),
    `${url}/x`,
  ]);
  const login = basic(`it:${PASSWORD}`);
  expect(asked).toEqual([`${url}/x ${login}`, `127.0.0.1:${port} ${login}`]);
});
