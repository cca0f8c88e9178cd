import { execa } from 'execa';
import { readFile, writeFile } from 'node:fs/promises';
import type { RequestListener } from 'node:http';
import { createServer, type Server } from 'node:https';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import type { AddressInfo } from 'node:net';

/** An address of this host that a guest reaches as well; undefined on a host without a network. */
export const hostAddress = (): string | undefined =>
  Object.values(networkInterfaces())
    .flat()
    .find((each) => each?.family === 'IPv4' && !each.internal)?.address;

/** A certificate authority of one folder, which nobody knows. */
export interface Authority {
  /** Its certificate, as NODE_EXTRA_CA_CERTS takes it. */
  file: string;
  key: string;
  cert: string;
}

/** Makes an authority in `folder`, and a server's key and certificate for the address. */
export async function makeAuthority(folder: string, address: string): Promise<Authority> {
  const path = (name: string): string => join(folder, name);
  const newKey = ['-newkey', 'rsa:2048', '-nodes'];
  await execa('openssl', [
    ...['req', '-x509', ...newKey, '-days', '30', '-subj', '/CN=Rig authority'],
    ...['-keyout', path('ca.key'), '-out', path('ca.pem')],
  ]);
  await execa('openssl', [
    ...['req', ...newKey, '-subj', '/CN=rig', '-keyout', path('server.key'), '-out', path('server.csr')],
  ]);
  await writeFile(path('server.ext'), `subjectAltName=IP:${address}\n`);
  await execa('openssl', [
    ...['x509', '-req', '-in', path('server.csr'), '-CA', path('ca.pem'), '-CAkey', path('ca.key')],
    ...['-CAcreateserial', '-days', '30', '-extfile', path('server.ext'), '-out', path('server.pem')],
  ]);
  return {
    file: path('ca.pem'),
    key: await readFile(path('server.key'), 'utf8'),
    cert: await readFile(path('server.pem'), 'utf8'),
  };
}

/** The port is the same each time, where it is free: an image that names it can be kept. */
const PORT = 45_443;

/** Serves over https on `address`, which guests reach too, under the same URL as this host. */
export async function serveHttps(
  { key, cert }: Authority,
  address: string,
  answer: RequestListener,
): Promise<{ server: Server; url: string }> {
  const server = createServer({ key, cert }, answer);
  const listen = (port: number): Promise<void> =>
    new Promise<void>((listening, failed) => {
      server.once('error', failed);
      server.listen(port, address, listening);
    });
  await listen(PORT).catch(() => listen(0));
  return { server, url: `https://${address}:${(server.address() as AddressInfo).port}` };
}
