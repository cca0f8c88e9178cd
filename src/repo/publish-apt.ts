import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { runBytes } from '../lib/exec.js';
import { packagesIndex, releaseDate, releaseHashes, releaseText } from './apt.js';
import type { DebFile } from './package-files.js';
import type { Repository } from './repository.js';

const BY_HASH = 'by-hash/SHA256';

interface AptInput {
  /** Sorted. */
  packages: readonly DebFile[];
  /** Origin and Label. */
  origin: string;
  signal: AbortSignal;
}

/** Writes what apt reads, so that a client that reads meanwhile finds a matching set. */
export async function publishApt(repo: Repository, { packages, origin, signal }: AptInput): Promise<void> {
  const index = packagesIndex(packages);
  const xz = await runBytes('xz', ['-6', '-T1', '-c'], {
    input: index,
    maxBytes: index.length + (1 << 20),
    cancelSignal: signal,
  });
  const files = [
    { name: 'Packages', bytes: index },
    { name: 'Packages.gz', bytes: gzipSync(index, { level: 9 }) },
    { name: 'Packages.xz', bytes: xz },
  ].map(({ name, bytes }) => {
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    return { name, bytes, size: bytes.length, sha256 };
  });
  const current = new Set(files.map((each) => each.sha256));
  const before = { release: await repo.read('Release'), inRelease: await repo.read('InRelease') };

  const architectures = [...new Set(packages.map((each) => each.architecture))].sort();
  // Before anything is written: it may have to wait until a new file looks newer than the old one.
  const release = await repo.dated({
    before: before.release,
    last: before.inRelease === null ? 'Release' : 'InRelease',
    dateOf: releaseDate,
    make: (date) => releaseText({ origin, architectures, files, date }),
  });
  await repo.folder(BY_HASH);
  for (const { bytes, sha256 } of files) await repo.write(`${BY_HASH}/${sha256}`, bytes);
  for (const { bytes, name } of files) await repo.write(name, bytes);

  const named = [before.release, before.inRelease].flatMap((each) => releaseHashes(each ?? ''));
  await repo.supersede(BY_HASH, named, current);
  await repo.writeDetached('Release.gpg', release);
  await repo.write('Release', release);
  // InRelease, which all but the oldest clients read, is one file and comes last.
  await repo.writeClearSigned('InRelease', release);
  await repo.expire(BY_HASH, /^[0-9a-f]{64}$/, current);
}
