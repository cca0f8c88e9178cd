import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { hostMirrors } from '../../src/distro/mirrors.js';
import { cacheDir } from '../../src/lib/paths.js';

// Images that are made like Debian's official ones (README.md in official/), kept in the cache, served as Debian serves its own.
const RIG = fileURLToPath(new URL('official', import.meta.url));
const IMAGES = fileURLToPath(new URL('../../images', import.meta.url));

/** The row of the catalogue that a suite's rig stands for. */
export const RIG_ROWS = {
  bookworm: 'debian-12',
  trixie: 'debian-13',
  forky: 'debian-forky',
  sid: 'debian-sid',
} as const;
export type Suite = keyof typeof RIG_ROWS;

/** The id of its own row: one that comes along cannot be changed. */
export const rigRow = (suite: Suite): string => `${RIG_ROWS[suite]}-rig`;

/** What this host lacks for making a rig. */
export async function missingForRigs(): Promise<string[]> {
  const missing: string[] = [];
  const { main, security } = await hostMirrors();
  if (main === undefined || security === undefined)
    missing.push("mirrors of Debian in this host's apt configuration");
  for (const each of ['mmdebstrap', 'mke2fs', 'sfdisk', 'mkfs.vfat', 'mcopy', 'python3']) {
    const { exitCode } = await execa('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin; command -v ${each}`], {
      reject: false,
    });
    if (exitCode !== 0) missing.push(each);
  }
  return missing;
}

const SCRIPTS = ['make-debian.sh', 'customize-debian.sh', 'finish-root.sh', 'write-root.sh', 'grub-bios.py'];

/** The folder of a suite's rig in the cache; made when it is not there, or was made by other scripts. */
export async function officialRig(suite: Suite): Promise<string> {
  const hash = createHash('sha256');
  for (const name of [...SCRIPTS, `${suite}.packages`]) hash.update(await readFile(join(RIG, name)));
  const rigs = join(cacheDir(), 'test-rigs');
  const made = join(rigs, `official-${suite}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(join(made, 'SHA512SUMS'))) return made;
  const { main = '', security = '' } = await hostMirrors();
  await mkdir(rigs, { recursive: true });
  const making = await mkdtemp(join(rigs, '.making-'));
  try {
    await execa(join(RIG, 'make-debian.sh'), [suite, main, security, making], { timeout: 1_800_000 });
    await rename(making, made);
  } finally {
    await rm(making, { recursive: true, force: true });
  }
  return made;
}

/** Answers on a port of this host's loopback. */
export interface Served extends AsyncDisposable {
  server: Server;
  /** `http://host:port`. */
  origin: string;
}

/** Serves on a free port of `host`; ends with all its connections. */
export async function serve(
  listener: Parameters<typeof createServer>[1],
  host = '127.0.0.1',
): Promise<Served> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  const { port } = server.address() as AddressInfo;
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { server, origin: `http://${host}:${port}`, [Symbol.asyncDispose]: close };
}

/** Serves rigs in the layout of Debian's server of cloud images. */
export function serveRigs(folders: Partial<Record<Suite, string>>): Promise<Served> {
  return serve((request, response) => {
    const [, suite = '', name = ''] =
      /^\/images\/cloud\/(\w+)\/(?:daily\/)?latest\/([\w.-]+)$/.exec(request.url ?? '') ?? [];
    const folder = folders[suite as Suite];
    const file = folder === undefined ? '' : join(folder, basename(name));
    sendFile(response, file);
  });
}

/** Answers with a file, or that there is none. */
export function sendFile(response: ServerResponse, file: string): void {
  void stat(file).then(
    ({ size }) => {
      response.writeHead(200, { 'content-length': size });
      createReadStream(file).pipe(response);
    },
    () => response.writeHead(404).end(),
  );
}

/** Writes a catalogue with the rows that rigs stand for: as they are, but for their names and their server of images. */
export async function writeRigCatalogue(
  file: string,
  origin: string,
  change: (row: Record<string, unknown>) => void = () => undefined,
): Promise<void> {
  const text = await readFile(join(IMAGES, 'debian.yaml'), 'utf8');
  const { family, rows } = parse(text.replaceAll('https://cloud.{domain}', origin), { merge: true }) as {
    family: string;
    rows: Record<string, unknown>[];
  };
  const wanted = Object.values(RIG_ROWS) as string[];
  const own = rows
    .filter(({ id }) => wanted.includes(String(id)))
    .map(({ aliases: _aliases, next: _next, ...row }) => ({ ...row, id: `${String(row.id)}-rig` }));
  for (const row of own) change(row);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, JSON.stringify({ family, rows: own }));
}
