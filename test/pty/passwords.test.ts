import { execa } from 'execa';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

const MAIN = resolve('dist/main.js');
const PLACES = ['mirror', 'archive', 'proxy', 'queue', 'store', 'passphrase', 'package'] as const;
const PASSWORD = Object.fromEntries(PLACES.map((place) => [place, `pw-of-${place}-7Qx`])) as Record<
  (typeof PLACES)[number],
  string
>;
/** What the tool starts while it plans, reads indexes and signs. */
const TOOLS = [
  'flock',
  'apt-config',
  'gpgv',
  'xz',
  'sh',
  'setpriv',
  'bwrap',
  'unshare',
  'gpg',
  'tar',
  'dpkg-deb',
];

let dir = '';
let server: Server;
let at = '';
/** Logins that arrived: `URL user:password`. */
let logins: string[];

const decode = (header: string | undefined): string =>
  Buffer.from((header ?? '').replace(/^Basic /, ''), 'base64').toString();

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'dkms2bin-pw-'));
  logins = [];
  // A mirror and an archive that want a password, and an HTTP proxy that does, too.
  server = createServer((request, response) => {
    const { authorization, 'proxy-authorization': forProxy } = request.headers;
    if (authorization) logins.push(`${request.url} ${decode(authorization)}`);
    if (forProxy) logins.push(`proxy ${decode(forProxy)}`);
    response.writeHead(authorization ? 404 : 401).end();
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  at = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const bin = join(dir, 'bin');
  await mkdir(bin);
  for (const tool of TOOLS) {
    const text = `#!/bin/bash\n{ echo ${tool} "$@"; env; } >>'${dir}/children'\nPATH=\${PATH#*:} exec ${tool} "$@"\n`;
    await writeFile(join(bin, tool), text);
    await chmod(join(bin, tool), 0o755);
  }
});
afterEach(async () => {
  server.close();
  await rm(dir, { recursive: true, force: true });
});

async function tool(args: string[], env: Record<string, string> = {}): Promise<string> {
  const { all, exitCode } = await execa(process.execPath, [MAIN, ...args], {
    cwd: dir,
    all: true,
    reject: false,
    extendEnv: false,
    env: {
      ...{ PATH: `${dir}/bin:${process.env.PATH}:/usr/sbin`, HOME: dir, TMPDIR: dir, XDG_RUNTIME_DIR: dir },
      ...{ DKMS2BIN_CACHE: join(dir, 'cache'), DKMS2BIN_STATE: join(dir, 'state') },
      DKMS2BIN_REPO_PASSPHRASE: PASSWORD.passphrase,
      DKMS2BIN_QUEUE_PASSWORD: PASSWORD.queue,
      ...env,
    },
  });
  await writeFile(join(dir, `output-${args[0]}-${logins.length}`), `${args.length} ${exitCode}\n${all}`);
  return all;
}

/** Every file that holds a password, of all that the tool wrote and printed, and of how it started others. */
async function holders(): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || entry.name === 'dkms2bin.yaml') continue;
    const path = join(entry.parentPath, entry.name);
    const text = await readFile(path, 'latin1');
    for (const place of PLACES) if (text.includes(PASSWORD[place])) found.push(`${path}: ${place}`);
  }
  return found;
}

const url = (place: 'mirror' | 'archive' | 'proxy' | 'store' | 'package', path = ''): string =>
  `http://user:${PASSWORD[place]}@${at}${path}`;

test('a password is used where it belongs, and is in no file, message, document or child process', async () => {
  await writeFile(
    join(dir, 'dkms2bin.yaml'),
    `mirror: ${url('mirror', '/debian')}\narchive: ${url('archive', '/old')}\n`,
  );
  const kernels = await tool([
    'kernels',
    '--distro',
    'debian-12',
    '--mirror',
    url('mirror', '/debian'),
    '--json',
  ]);
  const build = ['build', '--dkms', 'acpi-call-dkms', '--kernel', '6.1.0-99-amd64', '--json'];
  const planned = await tool([...build, '--dry-run']);
  const built = await tool([...build, '--out-dir', join(dir, 'out')]);
  await tool([
    ...build,
    '--kernel-package',
    url('package', '/linux-image.deb'),
    '--out-dir',
    join(dir, 'out'),
  ]);
  expect(kernels).not.toContain('@');
  // Where it looked, it says, without the password.
  expect(planned + built).toContain(`http://${at}/debian`);
  expect(
    logins.some((each) => each.startsWith('/debian/dists/') && each.endsWith(` user:${PASSWORD.mirror}`)),
  ).toBe(true);
  expect(
    logins.filter((each) => each.startsWith('/old')).every((each) => each.endsWith(PASSWORD.archive)),
  ).toBe(true);
  expect(logins.some((each) => each.startsWith('/old'))).toBe(true);
  const children = await readFile(join(dir, 'children'), 'utf8');
  expect(children).toMatch(/^apt-config /m);
  expect(await holders()).toEqual([]);
}, 240_000);

test('the same of a proxy, a store, a queue and the passphrase of a repository', async () => {
  await writeFile(join(dir, 'dkms2bin.yaml'), '');
  const build = ['build', '--dkms', 'acpi-call-dkms', '--kernel', '6.1.0-99-amd64'];
  const said = await tool([
    ...build,
    '--dry-run',
    '--proxy',
    url('proxy'),
    '--mirror',
    'http://mirror.invalid/debian',
  ]);
  expect(said).toContain('http://mirror.invalid/debian');
  expect(logins).toContain(`proxy user:${PASSWORD.proxy}`);
  await tool([...build, '--dry-run', '--mirror', 'http://mirror.invalid/debian'], {
    http_proxy: url('proxy'),
  });
  await tool([
    'worker',
    '--queue',
    `redis://:${PASSWORD.queue}@127.0.0.1:1`,
    '--store',
    url('store', '/store/'),
  ]);
  await tool(['repo', dir, '--repo-key', 'nobody']);
  expect(await holders()).toEqual([]);
}, 240_000);
