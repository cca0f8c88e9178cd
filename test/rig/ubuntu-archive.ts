import { execa } from 'execa';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { get, type IncomingMessage, type ServerResponse } from 'node:http';
import { join, normalize } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { SigningKey } from '../../src/repo/index.js';

/** Packages of one suite, by component: stanzas of an index, or folders of the archive with .deb files. */
export interface Suite {
  name: string;
  /** amd64 where none is told. */
  arch?: string;
  components: Record<string, { stanzas?: string; folders: string[] }>;
}

/** Writes dists/SUITE of an archive as Ubuntu's looks: signed, by hash, with components. */
export async function writeSuite(archive: string, suite: Suite, key: SigningKey): Promise<void> {
  const { arch = 'amd64' } = suite;
  const dists = join(archive, 'dists', suite.name);
  const sums: string[] = [];
  for (const [component, { stanzas = '', folders }] of Object.entries(suite.components)) {
    const scanned = await Promise.all(
      folders.map((folder) =>
        execa('dpkg-scanpackages', ['--multiversion', '--hash', 'sha256', folder], { cwd: archive }),
      ),
    );
    const plain = Buffer.from([stanzas, ...scanned.map(({ stdout }) => `${stdout}\n`)].join('\n'));
    const folder = `${component}/binary-${arch}`;
    await mkdir(join(dists, folder, 'by-hash/SHA256'), { recursive: true });
    // The plain index is named and not carried, as by Ubuntu's mirrors.
    for (const [name, bytes] of [
      ['Packages', plain],
      ['Packages.gz', gzipSync(plain)],
    ] as const) {
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      sums.push(` ${sha256} ${bytes.length} ${folder}/${name}`);
      if (name === 'Packages') continue;
      await writeFile(join(dists, folder, name), bytes);
      await writeFile(join(dists, folder, 'by-hash/SHA256', sha256), bytes);
    }
  }
  const release = [
    'Origin: Ubuntu',
    'Label: Ubuntu',
    `Suite: ${suite.name}`,
    'Version: 24.04',
    `Codename: ${suite.name.replace(/-.*/, '')}`,
    `Date: ${new Date().toUTCString().replace('GMT', 'UTC')}`,
    `Architectures: ${arch}`,
    `Components: ${Object.keys(suite.components).join(' ')}`,
    'Acquire-By-Hash: yes',
    'SHA256:',
    ...sums,
    '',
  ].join('\n');
  await writeFile(join(dists, 'InRelease'), await key.clearSign(release));
}

/** The index of a Debian suite as apt downloaded it into `lists`, without what belongs to a kernel; and the mirror's URL. */
export async function debianPackages(
  apt: string,
  suite: string,
): Promise<{ stanzas: string; mirror: string }> {
  const { stdout: names } = await execa('find', [
    join(apt, 'lists'),
    ...['-name', `*_dists_${suite}_main_binary-amd64_Packages*`],
  ]);
  const { stdout } = await execa('/usr/lib/apt/apt-helper', ['cat-file', names], { maxBuffer: 1 << 30 });
  const stanzas = stdout
    .split(/\n{2,}/)
    .filter((stanza) => !/^Package: linux-(?:image|headers|kbuild|support)-/.test(stanza));
  const sources = await readFile(join(apt, 'sources.list'), 'utf8');
  return { stanzas: `${stanzas.join('\n\n')}\n`, mirror: / (https?:\S+) /.exec(sources)![1]! };
}

/** Answers with the folder's files; what is in a pool of `ubuntu/` and not there is Debian's, from `mirror`. */
export const answerFrom =
  (folder: string, mirror: string) =>
  (request: IncomingMessage, response: ServerResponse): void => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname));
    const file = join(folder, path);
    if (existsSync(file)) createReadStream(file).pipe(response);
    else if (path.startsWith('/ubuntu/pool/')) {
      // Not by a redirect: apt follows none from https to http.
      const url = `${mirror.replace(/\/+$/, '')}${request.url!.slice('/ubuntu'.length)}`;
      get(url, (from) => {
        response.writeHead(from.statusCode ?? 502, {
          'content-length': from.headers['content-length'] ?? '',
        });
        from.pipe(response);
      }).on('error', () => response.writeHead(502).end());
    } else response.writeHead(404).end();
  };
