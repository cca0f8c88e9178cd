import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import {
  dataName,
  filelistsXml,
  otherXml,
  primaryXml,
  repomdDate,
  repomdFiles,
  repomdXml,
  type RepoData,
} from './dnf.js';
import type { RpmFile } from './package-files.js';
import type { Repository } from './repository.js';

const REPOMD = 'repodata/repomd.xml';

/** Writes what dnf and zypper read, so that a client that reads meanwhile finds a matching set. `packages` are sorted. */
export async function publishDnf(repo: Repository, packages: readonly RpmFile[]): Promise<void> {
  const data = [
    metadata('primary', primaryXml(packages)),
    metadata('filelists', filelistsXml(packages)),
    metadata('other', otherXml(packages)),
  ];
  const about = data.map((each) => each.about);
  const current = new Set(about.map(dataName));
  const before = await repo.read(REPOMD);

  await repo.folder('repodata');
  for (const each of data) await repo.write(`repodata/${dataName(each.about)}`, each.bytes);
  const repomd = await repo.dated({
    before,
    last: REPOMD,
    dateOf: repomdDate,
    make: (date) => repomdXml(about, date),
  });
  await repo.supersede('repodata', repomdFiles(before ?? ''), current);
  await repo.writeDetached(`${REPOMD}.asc`, repomd);
  await repo.write(REPOMD, repomd);
  await repo.expire('repodata', /^[0-9a-f]{64}-(primary|filelists|other)\.xml\.gz$/, current);
}

function metadata(type: RepoData['type'], text: string): { about: RepoData; bytes: Buffer } {
  const open = Buffer.from(text);
  const bytes = gzipSync(open, { level: 9 });
  const about = {
    type,
    sha256: sha256(bytes),
    size: bytes.length,
    open: { sha256: sha256(open), size: open.length },
  };
  return { about, bytes };
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
