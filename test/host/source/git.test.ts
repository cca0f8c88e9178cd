import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Event } from '../../../src/model/events.js';
import { TREES } from '../../unit/fixtures/source-trees.js';
import { notesOf, parseLocal, type Local } from '../fixtures/parsed-source.js';
import { git, GitServer, Repository } from '../fixtures/git-server.js';

let dir: string;
let server: GitServer;
let events: Event[];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'git-source-'));
  vi.stubEnv('DKMS2BIN_CACHE', join(dir, 'cache'));
  vi.stubEnv('http_proxy', '');
  vi.stubEnv('all_proxy', '');
  server = await new GitServer(join(dir, 'srv')).open();
  events = [];
});
afterEach(async () => {
  vi.unstubAllEnvs();
  server.close();
  await rm(dir, { recursive: true, force: true });
});

const fetched = (text: string, means: { offline?: boolean; moduleVersion?: string } = {}): Promise<Local> =>
  parseLocal(text, { cwd: dir, events, ...means });
const fileIn = ({ path }: Local, name: string): string =>
  execFileSync('tar', ['-xOf', path, `./${name}`], { encoding: 'utf8' });
const namesIn = ({ path }: Local): string[] =>
  execFileSync('tar', ['-tf', path], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((name) => name.replace(/^\.\//, ''));
const notes = (): string => notesOf(events);
const repository = (name = 'r'): Repository => new Repository(join(dir, 'srv', name));

describe('a git repository', () => {
  test('default branch, branch, tag, commit, abbreviated commit and folder', async () => {
    const repo = repository();
    const first = repo.commit({ ...TREES.xone });
    git(repo.dir, 'tag', '-a', 'v0.3', '-m', 'x');
    git(repo.dir, 'branch', 'old/er');
    const second = repo.commit({
      'm0.c': 'int second;\n',
      'sub/dkms.conf': 'PACKAGE_NAME="deep"\nPACKAGE_VERSION=7\n',
    });
    const url = server.url('r');
    const head = await fetched(url);
    expect(head).toMatchObject({ kind: 'tarball', text: url, origin: { url, commit: second } });
    expect(fileIn(head, 'm0.c')).toBe('int second;\n');
    expect(fileIn(head, 'dkms.conf')).toContain('PACKAGE_VERSION="0~git20260304.');
    const tag = await fetched(`${url}#v0.3`);
    expect(tag.origin?.commit).toBe(first);
    expect(fileIn(tag, 'dkms.conf')).toContain('PACKAGE_VERSION="0.3"');
    for (const ref of ['old/er', first, first.slice(0, 9)])
      expect((await fetched(`${url}#${ref}`)).origin?.commit, ref).toBe(first);
    expect(fileIn(await fetched(`${url}#main:sub`), 'dkms.conf')).toContain('deep');
    await expect(fetched(`${url}#main:none`)).rejects.toMatchObject({ fault: 'not-found' });
    await expect(fetched(`${url}#nope`)).rejects.toMatchObject({
      fault: 'not-found',
      hint: expect.stringContaining('v0.3') as string,
    });
    // The same commit is the same bytes.
    expect((await fetched(`${url}#${first}`)).path).toBe(tag.path);
  });

  test('is fetched once for a commit, asked each time for a branch, and known offline', async () => {
    const repo = repository();
    repo.commit({ ...TREES.amneziawg });
    const url = server.url('r');
    await expect(fetched(url, { offline: true })).rejects.toMatchObject({
      fault: 'not-found',
      message: expect.stringContaining('--offline') as string,
    });
    const before = await fetched(url);
    const packs = (): number => server.requests.filter((each) => each.startsWith('POST')).length;
    const asked = packs();
    await fetched(url);
    expect(packs() - asked, 'ls-remote alone').toBeLessThanOrEqual(1);
    const moved = repo.commit({ 'src/new.c': 'int x;\n' });
    expect((await fetched(url, { offline: true })).path).toBe(before.path);
    const after = await fetched(url);
    expect(after.origin?.commit).toBe(moved);
    expect(namesIn(after)).toContain('new.c');
  });

  test('a version that is given, and what the attributes of git would leave out', async () => {
    repository().commit({
      ...TREES.it87,
      '.gitattributes': 'chip.c export-ignore\nsub.h export-subst\n',
      'sub.h': '$Format:%H$\n',
    });
    const source = await fetched(server.url('r'), { moduleVersion: '4.2' });
    expect(fileIn(source, 'dkms.conf')).toContain('PACKAGE_VERSION="4.2"');
    expect(namesIn(source)).toContain('chip.c');
    expect(fileIn(source, 'sub.h')).toBe('$Format:%H$\n');
  });

  test('none there, or not for everybody: what to do', async () => {
    await expect(fetched(server.url('none'))).rejects.toMatchObject({
      fault: 'not-found',
      message: expect.stringContaining('no git repository') as string,
    });
    server.intercept = (_, response) => {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      return true;
    };
    await expect(fetched(server.url('r'))).rejects.toMatchObject({
      fault: 'not-found',
      hint: expect.stringContaining('token') as string,
    });
  });

  test('user and token of the URL reach the server, and nothing else', async () => {
    repository().commit({ ...TREES.amneziawg });
    const seen: (string | undefined)[] = [];
    server.intercept = (request) => {
      seen.push(request.headers.authorization);
      return false;
    };
    const source = await fetched(server.url('r').replace('://', '://me:s3cret@'));
    expect(seen[0]).toBe(`Basic ${Buffer.from('me:s3cret').toString('base64')}`);
    expect(JSON.stringify([source, events])).not.toContain('s3cret');
  });
});

describe('a repository that means harm', () => {
  const pwned = (): string => join(dir, 'pwned');

  test('hooks, helpers and configuration of user and system are not read', async () => {
    repository().commit({ ...TREES.amneziawg });
    const home = join(dir, 'home');
    const hooks = join(home, 'hooks');
    mkdirSync(hooks, { recursive: true });
    for (const name of ['post-checkout', 'reference-transaction', 'post-index-change'])
      writeFileSync(join(hooks, name), `#!/bin/sh\ntouch ${pwned()}\n`, { mode: 0o755 });
    writeFileSync(
      join(home, '.gitconfig'),
      `[core]\n hooksPath=${hooks}\n fsmonitor=touch ${pwned()}\n[credential]\n helper=!touch ${pwned()}\n[protocol]\n allow=always\n[init]\n templateDir=${home}\n[url "file:///etc/"]\n insteadOf=${server.url('r')}\n`,
    );
    vi.stubEnv('HOME', home);
    vi.stubEnv('GIT_CONFIG_PARAMETERS', "'core.hooksPath=/x'");
    await fetched(server.url('r'));
    expect(existsSync(pwned())).toBe(false);
  });

  test('submodules with commands for URLs are told, not fetched', async () => {
    const repo = repository();
    repo.commit({
      ...TREES.amneziawg,
      '.gitmodules': `[submodule "x"]\n path = evil\n url = ext::sh -c touch% ${pwned()}\n[submodule "y"]\n path = local\n url = file:///etc\n`,
    });
    git(repo.dir, 'update-index', '--add', '--cacheinfo', `160000,${'1'.repeat(40)},evil`);
    git(repo.dir, 'commit', '--quiet', '-m', 'link');
    const source = await fetched(server.url('r'));
    expect(notes()).toContain('has git submodules, which are not fetched: evil, local');
    expect(namesIn(source)).not.toContain('evil/x');
    expect(existsSync(pwned())).toBe(false);
  });

  test('links out of the tree are not followed on this host', async () => {
    const repo = repository();
    writeFileSync(join(dir, 'secret'), 'PACKAGE_NAME="secret"\nPACKAGE_VERSION="9"\n');
    repo.commit({ 'src/dkms.conf': 'PACKAGE_NAME=x\nPACKAGE_VERSION="@VERSION@"\n' });
    symlinkSync(join(dir, 'secret'), join(repo.dir, 'src/linked.h'));
    symlinkSync(join(dir, 'secret'), join(repo.dir, 'VERSION'));
    symlinkSync('../../../../../../../../etc', join(repo.dir, 'debian'));
    const commit = repo.commit();
    const source = await fetched(server.url('r'));
    expect(fileIn(source, 'dkms.conf')).toContain(`0~git20260304.${commit.slice(0, 7)}`);
    expect(execFileSync('tar', ['-xOf', source.path])).not.toContain('secret');
    symlinkSync(join(dir, 'secret'), join(repo.dir, 'dkms.conf'));
    await rm(join(repo.dir, 'src/dkms.conf'), { force: true });
    repo.commit();
    await expect(fetched(server.url('r'))).rejects.toMatchObject({
      message: expect.stringContaining('holds no dkms.conf') as string,
    });
  });

  test.each(['file:///etc', 'ssh://x.invalid/r', 'ext::sh'])('a redirect to %s goes nowhere', async (to) => {
    server.intercept = (request, response) => {
      const query = new URL(request.url!, 'http://x').search;
      response.writeHead(302, { location: `${to}/info/refs${query}` }).end();
      return true;
    };
    await expect(fetched(server.url('r'))).rejects.toMatchObject({
      fault: expect.stringMatching(/transient|not-found/) as string,
    });
  });

  test('more than it should send is cut off', async () => {
    server.intercept = (_, response) => {
      response.writeHead(200, { 'content-type': 'application/x-git-upload-pack-advertisement' });
      const line = `003f${'1'.repeat(40)} refs/heads/xxxxxxx\n`;
      const flood = (): void => {
        while (response.write(line.repeat(5000)));
        response.once('drain', flood);
      };
      flood();
      return true;
    };
    await expect(fetched(server.url('r'))).rejects.toMatchObject({
      fault: 'usage',
      message: expect.stringContaining('sends more') as string,
    });
  });
});
