import { createHash } from 'node:crypto';
import { chmod, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import * as openpgp from 'openpgp';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Event } from '../../../src/model/events.js';
import { run } from '../../../src/lib/exec.js';
import {
  type CatalogueArch,
  type CatalogueRow,
  findRow,
  loadCatalogue,
} from '../../../src/distro/catalogue.js';
import { updateImages } from '../../../src/environment/image-update.js';
import { fetchOfficial, officialInCache } from '../../../src/environment/official-image.js';
import { requireStandalone } from '../../../src/environment/image-check.js';

const TREE = '/images/cloud/bookworm/latest';
const NAME = 'debian-12-genericcloud-amd64.qcow2';
const hexOf = (algorithm: string, data: Uint8Array): string =>
  createHash(algorithm).update(data).digest('hex');

async function newKey(): Promise<{ key: openpgp.PrivateKey; armored: string; fingerprint: string }> {
  const made = await openpgp.generateKey({ userIDs: [{ name: 'Images' }], format: 'object' });
  return {
    key: made.privateKey,
    armored: made.publicKey.armor(),
    fingerprint: made.publicKey.getFingerprint().toUpperCase(),
  };
}

let ours: Awaited<ReturnType<typeof newKey>>;
let theirs: Awaited<ReturnType<typeof newKey>>;
let image: Buffer;
let rows: CatalogueRow[];
let dir: string;
let tree: Map<string, Buffer | string>;
let asked: string[];
let server: Server;
let base: string;
let events: Event[];

beforeAll(async () => {
  [ours, theirs, rows] = await Promise.all([newKey(), newKey(), loadCatalogue()]);
  const scratch = await mkdtemp(join(tmpdir(), 'verify-'));
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', join(scratch, 'a'), '1M']);
  image = await readFile(join(scratch, 'a'));
  await rm(scratch, { recursive: true });
});
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'verify-'));
  asked = [];
  events = [];
  tree = new Map<string, Buffer | string>([
    [`${TREE}/${NAME}`, image],
    [`${TREE}/SHA512SUMS`, `${'0'.repeat(128)}  other.qcow2\n${hexOf('sha512', image)}  ${NAME}\n`],
  ]);
  await writeFile(join(dir, 'key.asc'), ours.armored);
  server = createServer((req, res) => {
    asked.push(basename(req.url!));
    const body = tree.get(req.url!);
    if (body === undefined) res.writeHead(404).end();
    else res.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(dir, { recursive: true });
});

function row(
  signature: CatalogueArch['image']['signature'] = { kind: 'none' },
  digest?: string,
): CatalogueRow {
  const copy = structuredClone(findRow(rows, 'debian-12'));
  // The server has one image.
  delete copy.arch.aarch64;
  copy.arch.x86_64.image.signature = signature;
  if (digest) copy.arch.x86_64.image.digest = digest;
  return copy;
}
function official(of: CatalogueRow, more: object = {}): Promise<string> {
  return fetchOfficial(of, 'x86_64', {
    cacheDir: dir,
    emit: (event) => void events.push(event),
    baseOverride: base,
    proxy: '',
    limits: { retries: 0, stallMs: 1000, backoffMs: 1 },
    ...more,
  });
}
const pin = (fingerprint = ours.fingerprint) => ({
  keyFingerprint: fingerprint,
  keyFile: join(dir, 'key.asc'),
});
const detached = (fingerprint?: string): CatalogueArch['image']['signature'] => ({
  kind: 'detached',
  url: `https://any.invalid${TREE}/SHA512SUMS.sign`,
  ...pin(fingerprint),
});
async function sign(text: string, by = ours): Promise<string> {
  const message = await openpgp.createMessage({ text });
  return String(await openpgp.sign({ message, signingKeys: by.key, detached: true }));
}
const sums = (): string => String(tree.get(`${TREE}/SHA512SUMS`));

describe('fetchOfficial', () => {
  it('caches the image under its digest, read-only, and re-verifies it', async () => {
    const of = row();
    expect(await officialInCache(of, 'x86_64', dir)).toBe(false);
    const path = await official(of);
    expect(path).toBe(join(dir, 'images', `${hexOf('sha512', image)}.qcow2`));
    expect((await readFile(path)).equals(image)).toBe(true);
    expect((await stat(path)).mode & 0o777).toBe(0o444);
    expect(await officialInCache(of, 'x86_64', dir)).toBe(true);

    await official(of);
    expect(asked.filter((n) => n === NAME)).toHaveLength(1);

    // Poisoned: same name, other bytes.
    await chmod(path, 0o644);
    await writeFile(path, 'poison');
    expect((await readFile(await official(of))).equals(image)).toBe(true);
    expect(asked.filter((n) => n === NAME)).toHaveLength(2);
  });

  it('takes the image verified before when the sums are out of reach, or offline', async () => {
    const path = await official(row());
    asked = [];
    expect(await official(row(), { offline: true })).toBe(path);
    expect(asked).toEqual([]);
    expect(await official(row(), { update: true, baseOverride: 'http://127.0.0.1:1' })).toBe(path);
    expect(events.at(-1)).toMatchObject({ level: 'warn' });
    await expect(official(findRow(rows, 'sid'), { offline: true })).rejects.toMatchObject({
      fault: 'not-found',
    });
  });

  it('stays with the image that it has, asks for a newer one once a week, and takes it when asked to', async () => {
    const first = await official(row());
    const newer = Buffer.concat([image, Buffer.alloc(512)]);
    tree.set(`${TREE}/${NAME}`, newer);
    tree.set(`${TREE}/SHA512SUMS`, `${hexOf('sha512', newer)}  ${NAME}\n`);
    [asked, events] = [[], []];
    expect(await official(row())).toBe(first);
    expect(asked).toEqual([]);
    const record = join(dir, 'images', 'debian-12.x86_64.json');
    const text = JSON.parse(await readFile(record, 'utf8')) as { asked: string };
    const weekAgo = new Date(Date.now() - 7.1 * 86400_000).toISOString();
    for (const old of [weekAgo, undefined]) {
      await writeFile(record, JSON.stringify({ ...text, asked: old }));
      [asked, events] = [[], []];
      expect(await official(row())).toBe(first);
      expect(asked).toEqual(['SHA512SUMS']);
      expect(events).toEqual([
        {
          type: 'note',
          level: 'info',
          message: expect.stringMatching(/newer image .*images update/) as string,
        },
      ]);
      expect(await official(row())).toBe(first);
      expect(asked).toEqual(['SHA512SUMS']);
    }
    // Sums out of reach are no matter to who does not update.
    await writeFile(record, JSON.stringify({ ...text, asked: weekAgo }));
    events = [];
    expect(await official(row(), { baseOverride: 'http://127.0.0.1:1' })).toBe(first);
    expect(events).toEqual([]);
    const second = await official(row(), { update: true });
    expect((await readFile(second)).equals(newer)).toBe(true);
    expect(await official(row())).toBe(second);
  });

  it('says what a newer image costs before it is downloaded', async () => {
    await official(row());
    const notes = (): string[] => events.flatMap((e) => (e.type === 'note' ? [e.message] : []));
    expect(notes().join('\n')).not.toContain('new image');
    const newer = Buffer.concat([image, Buffer.alloc(512)]);
    tree.set(`${TREE}/${NAME}`, newer);
    tree.set(`${TREE}/SHA512SUMS`, `${hexOf('sha512', newer)}  ${NAME}\n`);
    events = [];
    await official(row(), { update: true });
    expect(notes()).toContainEqual(
      expect.stringMatching(
        /^debian-12 has published a new image: .*is made anew on it, which takes minutes/,
      ),
    );
    const first = (what: (e: Event) => boolean): number => events.findIndex(what);
    expect(first((e) => e.type === 'note' && e.message.includes('new image'))).toBeLessThan(
      first((e) => e.type === 'progress'),
    );
  });

  it('asks no sums for a pinned digest', async () => {
    await official(row({ kind: 'none' }, `sha512:${hexOf('sha512', image)}`));
    expect(asked).toEqual([NAME]);
  });

  it('refuses an image that is not the one of the sums', async () => {
    tree.set(`${TREE}/${NAME}`, Buffer.concat([image, Buffer.from('x')]));
    await expect(official(row())).rejects.toMatchObject({
      fault: 'transient',
      message: expect.stringContaining('expected') as string,
    });
    expect((await readdir(join(dir, 'images'))).filter((n) => n.endsWith('.qcow2'))).toEqual([]);
  });

  it('refuses sums that lack the image', async () => {
    tree.set(`${TREE}/SHA512SUMS`, `${hexOf('sha512', image)}  x${NAME}\n`);
    await expect(official(row())).rejects.toThrow(`does not list ${NAME}`);
  });

  it('takes a good detached signature, armored and binary', async () => {
    const armored = await sign(sums());
    tree.set(`${TREE}/SHA512SUMS.sign`, armored);
    await official(row(detached()));
    const binary = await openpgp.readSignature({ armoredSignature: armored });
    tree.set(`${TREE}/SHA512SUMS.sign`, Buffer.from(binary.write()));
    await official(row(detached()), { update: true });
  });

  it('refuses a signature over other sums, by another key, a broken one, and none', async () => {
    const refused = { fault: 'transient' };
    tree.set(`${TREE}/SHA512SUMS.sign`, await sign(`${sums()} `));
    await expect(official(row(detached()))).rejects.toMatchObject({
      ...refused,
      message: expect.stringMatching(/no valid signature/) as string,
    });
    tree.set(`${TREE}/SHA512SUMS.sign`, await sign(sums(), theirs));
    await expect(official(row(detached()))).rejects.toMatchObject({
      ...refused,
      message: expect.stringContaining(ours.fingerprint) as string,
    });
    tree.set(`${TREE}/SHA512SUMS.sign`, 'rubbish');
    await expect(official(row(detached()))).rejects.toMatchObject(refused);
    tree.delete(`${TREE}/SHA512SUMS.sign`);
    await expect(official(row(detached()))).rejects.toMatchObject({
      ...refused,
      message: expect.stringContaining('is missing') as string,
    });
    expect(asked).not.toContain(NAME);
  });

  it('refuses a key file without the pinned key', async () => {
    tree.set(`${TREE}/SHA512SUMS.sign`, await sign(sums(), theirs));
    await expect(official(row(detached(theirs.fingerprint)))).rejects.toMatchObject({
      fault: 'host',
      message: expect.stringContaining(`not the pinned key ${theirs.fingerprint}`) as string,
    });
  });

  it('takes clearsigned sums and nothing outside the signed text', async () => {
    const of = row({ kind: 'clearsigned', ...pin() });
    const good = sums();
    await expect(official(of)).rejects.toThrow('is not signed');
    const message = await openpgp.createCleartextMessage({ text: good });
    const signed = await openpgp.sign({ message, signingKeys: ours.key });
    tree.set(`${TREE}/SHA512SUMS`, signed);
    await official(of);
    tree.set(`${TREE}/SHA512SUMS`, signed.replace(/[0-9a-f]{8}(?= {2}debian)/, '00000000'));
    const update = { update: true };
    await expect(official(of, update)).rejects.toThrow('no valid signature');
    const other = await openpgp.sign({
      message: await openpgp.createCleartextMessage({ text: 'nothing\n' }),
      signingKeys: ours.key,
    });
    tree.set(`${TREE}/SHA512SUMS`, `${good}${other}`);
    await expect(official(of, update)).rejects.toMatchObject({ fault: 'transient' });
  });

  it('refuses an image with a backing file, a data file, or of another kind', async () => {
    await run('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'raw',
      '-b',
      '/etc/hostname',
      join(dir, 'b'),
      '1M',
    ]);
    await run('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      `data_file=${dir}/raw`,
      join(dir, 'd'),
      '1M',
    ]);
    await writeFile(join(dir, 'x'), Buffer.alloc(4096));
    await expect(requireStandalone(join(dir, 'b'))).rejects.toThrow('backing file');
    await expect(requireStandalone(join(dir, 'd'))).rejects.toThrow('another file');
    await expect(requireStandalone(join(dir, 'x'))).rejects.toThrow('not a qcow2');
    const backed = await readFile(join(dir, 'b'));
    tree.set(`${TREE}/${NAME}`, backed);
    tree.set(`${TREE}/SHA512SUMS`, `${hexOf('sha512', backed)}  ${NAME}\n`);
    await expect(official(row())).rejects.toThrow('backing file');
    expect((await readdir(join(dir, 'images'))).filter((n) => !n.endsWith('.lock'))).toEqual([]);
  });

  it('an image whose name only the sums know is found and downloaded', async () => {
    const which = row();
    which.arch.x86_64.image.url = which.arch.x86_64.image.url.replace('debian-12', 'debian-*');
    const options = { emit: () => undefined, cacheDir: dir, baseOverride: base, proxy: '' };
    expect((await readFile(await fetchOfficial(which, 'x86_64', options))).equals(image)).toBe(true);
    expect(asked).toContain(NAME);
  });
});

describe('a key by its URL', () => {
  const signed = async (fingerprint: string, binary = false): Promise<CatalogueRow> => {
    tree.set(`${TREE}/SHA512SUMS.asc`, await sign(sums()));
    const key = await openpgp.readKey({ armoredKey: ours.armored });
    tree.set('/keys/us', binary ? Buffer.from(key.write()) : ours.armored);
    return row({
      kind: 'detached',
      url: `https://cloud.test${TREE}/SHA512SUMS.asc`,
      keyUrl: 'https://keys.test/keys/us',
      keyFingerprint: fingerprint,
    });
  };
  const fetchIt = (which: CatalogueRow): Promise<string> =>
    fetchOfficial(which, 'x86_64', { emit: () => undefined, cacheDir: dir, baseOverride: base, proxy: '' });

  it('is fetched once, armored or not, and kept', async () => {
    const which = await signed(ours.fingerprint, true);
    expect((await readFile(await fetchIt(which))).equals(image)).toBe(true);
    tree.delete('/keys/us');
    await fetchIt(which);
    expect(asked.filter((name) => name === 'us')).toHaveLength(1);
    expect((await readdir(join(dir, 'images'))).filter((name) => name.includes('.part'))).toEqual([]);
  });

  it('is refused when it is not the pinned one, and not kept', async () => {
    const which = await signed(theirs.fingerprint);
    await expect(fetchIt(which)).rejects.toMatchObject({
      fault: 'host',
      message: expect.stringContaining('not the pinned key') as string,
    });
    expect((await readdir(join(dir, 'images'))).filter((name) => name.endsWith('.key'))).toEqual([]);
  });
});

describe('the catalogue brought up to date', () => {
  it('writes changed digests alone, and tells what needs a person', async () => {
    const file = join(dir, 'rows.yaml');
    const old = `sha512:${'1'.repeat(128)}`;
    await writeFile(file, `# a comment\nrows: [${old}, other]\n`);
    const pinned = { ...row(undefined, old), file };
    const state = async (which: CatalogueRow, write: boolean): Promise<string[]> =>
      (
        await updateImages([which], {
          emit: () => undefined,
          cacheDir: dir,
          baseOverride: base,
          proxy: '',
          limits: { retries: 0 },
          write,
        })
      ).map(({ id, state: is, says }) => `${id} ${is} ${says}`);
    const now = `sha512:${hexOf('sha512', image)}`;
    expect(await state(row(), true)).toEqual([`debian-12 listed ${now}`]);
    expect(await state(pinned, false)).toEqual([`debian-12 changed ${now}`]);
    expect(await readFile(file, 'utf8')).toContain(old);
    await state(pinned, true);
    expect(await readFile(file, 'utf8')).toBe(`# a comment\nrows: [${now}, other]\n`);
    expect(await state(row(undefined, now), true)).toEqual([`debian-12 same ${now}`]);

    tree.set(`${TREE}/SHA512SUMS`, `${hexOf('sha512', image)}  debian-13-genericcloud-amd64.qcow2\n`);
    expect((await state(pinned, true))[0]).toMatch(/renamed .* is called debian-13-genericcloud-amd64/);
    tree.set(`${TREE}/SHA512SUMS`, 'nothing\n');
    expect((await state(pinned, true))[0]).toMatch(/^debian-12 refused .*does not list/);
    base = 'http://127.0.0.1:1';
    expect((await state(pinned, true))[0]).toMatch(/^debian-12 unknown .*ECONNREFUSED/);
  });
});
